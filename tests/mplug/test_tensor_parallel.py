"""Two processes that each hold half of every matrix compute what one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import parallel_texts
from mplug import gpt3, plug
from mplug.errors import MplugError
from mplug.tensor_parallel import check_size, styles

FAMILIES = ("gpt3-plain", "gpt3-distributed", "plug")


@pytest.mark.timeout(180)
@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_write_as_one(family: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [parallel_texts.__file__, family, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr

    model = parallel_texts.make(family)
    wanted = parallel_texts.compute(model)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["logits"], wanted["logits"], rtol=1e-5, atol=1e-5)
        assert found["ids"] == wanted["ids"]
        assert found["scores"] == pytest.approx(wanted["scores"], rel=1e-4)
        # Positions, norms and biases are whole in both.
        assert found["bytes"] < 0.62 * parallel_texts.held(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_is_parted(family: str) -> None:
    model = parallel_texts.make(family)
    parted = styles(model)
    whole = {
        name.rpartition(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and name.rpartition(".")[0] not in parted
    }
    assert {name.rpartition(".")[2] for name in whole} <= {"position", "token_type"}


def test_what_cannot_be_parted_is_refused() -> None:
    with pytest.raises(MplugError, match=r"there are 3 processes, which do not divide heads \(32\)"):
        check_size(gpt3.SIZES["1.3B"], 3)
    check_size(plug.SIZES["27B"], 8)
