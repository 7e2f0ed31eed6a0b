"""Experiments in the one trainer: what it keeps loads, checkpoints are whole, two processes are as one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import experiment_runs
from experiment_cases import PIXELS
from experiment_runs import ToyPretraining, train
from mplug import load
from mplug.train.run_state import RunFolder, read_log

TOLERANCE = 2e-4
"""Sums over processes are added in another order than sums over a batch."""


def losses(output: Path) -> dict[str, float]:
    lines: list[dict[str, Any]] = read_log(output / "log.jsonl")
    return {
        f"{line['step']} {name}": value
        for line in lines
        for name, value in {**line.get("losses", {}), **line.get("metrics", {})}.items()
    }


def test_the_best_model_loads_and_checkpoints_hold_twins_and_queue(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    best = load(tmp_path / "whole" / "output_best", task="caption")
    assert len(best.caption(torch.from_numpy(PIXELS))) == len(PIXELS)
    found = losses(tmp_path / "whole")
    assert {name.split()[1] for name in found} == {
        "itc_loss",
        "itm_loss",
        "mlm_loss",
        "prefix_lm_loss",
        "metric",
    }

    saved = RunFolder(tmp_path / "whole").load()
    assert saved is not None
    assert saved[1]["experiment"]["queue_position"] == ToyPretraining().max_steps * 2 * 6 % 30
    twins = [name for name in saved[1]["model"] if name.startswith("twin.")]
    assert twins
    lines = read_log(tmp_path / "whole" / "log.jsonl")
    assert all(
        line["images_per_second"] > 0 < line["tokens_per_second"] for line in lines if "losses" in line
    )


@pytest.mark.timeout(240)
@pytest.mark.long
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_as_one(tmp_path: Path, sharding: str) -> None:
    train(tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [experiment_runs.__file__, str(tmp_path / "two"), f"sharding={sharding!r}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    held = json.loads((tmp_path / "two" / "held.json").read_text())
    blocks = [name for name in held if ".layers." in name or ".blocks." in name]
    # Shared out, a block is whole while it computes; what is in none is whole during the step.
    assert (blocks == []) == (sharding == "full")
    assert "online.text_encoder.embeddings.word.weight" in held
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two == pytest.approx(one, rel=TOLERANCE)
    states = [RunFolder(tmp_path / name).load() for name in ("one", "two")]
    first, second = (state[1] for state in states if state is not None)
    assert second["experiment"]["identity_queue"].tolist() == first["experiment"]["identity_queue"].tolist()
    for name in ("image_queue", "text_queue"):
        torch.testing.assert_close(
            second["experiment"][name], first["experiment"][name], rtol=1e-3, atol=1e-4
        )
