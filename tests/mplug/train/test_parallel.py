"""Two processes under torchrun train as one does: the same losses, the same weights, the same checkpoints."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import training_runs
from mplug.errors import MplugError
from mplug.train import parallel
from mplug.train.config import override
from mplug.train.run_state import RunFolder, read_log
from mplug.train.trainer import Trainer
from training_runs import Toy, ToyConfig

SETTINGS = ["accumulate=2", "optimizer.max_grad_norm=0.5"]
TOLERANCE = 1e-5
"""Sums over processes are added in another order than sums over a batch; 12 steps of AdamW make little of it."""


def alone(output: Path, *settings: str) -> None:
    config = override(ToyConfig(), [*SETTINGS, *settings])
    Trainer(Toy(config), config, output).fit()


def together(output: Path, *settings: str, death: int = -1) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [training_runs.__file__, str(output), "0", str(death), *SETTINGS, *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert (done.returncode == 0) == (death < 0), done.stderr


def lines(output: Path) -> list[dict[str, Any]]:
    kept = ("losses", "metrics", "lr", "grad_norm")
    return [
        {"step": line["step"]} | {key: line[key] for key in kept if key in line}
        for line in read_log(output / "log.jsonl")
    ]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in flat(each, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for n, each in enumerate(value) for k, v in flat(each, f"{path}/{n}").items()}
    return {path: value}


@pytest.mark.timeout(240)
@pytest.mark.long
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_as_one(tmp_path: Path, sharding: str) -> None:
    alone(tmp_path / "one", f"sharding={sharding!r}")
    together(tmp_path / "two", f"sharding={sharding!r}")

    one, two = (flat(lines(tmp_path / name)) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=TOLERANCE, abs=TOLERANCE)
    weights = [torch.load(tmp_path / name / "output_best" / "model.pt") for name in ("one", "two")]
    torch.testing.assert_close(weights[1], weights[0], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.timeout(240)
@pytest.mark.long
def test_a_killed_run_of_two_goes_on_with_two_and_with_one(tmp_path: Path) -> None:
    alone(tmp_path / "unbroken", "sharding='full'")
    together(tmp_path / "killed", "sharding='full'", death=7)
    stopped = RunFolder(tmp_path / "killed").load()
    assert stopped is not None
    assert stopped[0].step == 6
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    together(tmp_path / "killed", "sharding='full'")
    alone(tmp_path / "alone", "sharding='full'")

    unbroken = flat(lines(tmp_path / "unbroken"))
    for name in ("killed", "alone"):
        assert flat(lines(tmp_path / name)) == pytest.approx(unbroken, rel=TOLERANCE, abs=TOLERANCE)


def test_parts_that_cannot_be_shared_out_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.own_parts(3) == range(3)
    monkeypatch.setattr(parallel, "world", lambda: 2)
    with pytest.raises(MplugError, match=r"accumulate=3.*2 processes"):
        parallel.own_parts(3)


def test_an_unknown_sharding_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match="none, full"):
        alone(tmp_path, "sharding='zero'")
