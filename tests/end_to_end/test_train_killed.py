"""A fine-tuning that is killed three times ends as one that is not: on one machine with one thread to the last bit.

SIGKILL comes at random steps, in the middle of what follows them; what a run had done beyond its last checkpoint it
does again. Nothing random depends on where a process stands, so that the tolerance is none at all.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from finetuning_runs import command, save_start, settings, write_rows
from mplug.train.run_state import RunFolder, read_log

EPOCHS = 16
TIMINGS = ("seconds_per_step", "mfu")
RUNS = {
    # Settings beside the usual ones, and steps in an epoch.
    "finetune-captioning": (("checkpoint_every=5", "precision=bfloat16"), 6),
    "finetune-vqa": (("checkpoint_every=4", "accumulate=3", "batch_size=2"), 3),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


def process(words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mplug_services.cli", *words, "--resume"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
    )


def run(words: Sequence[str]) -> None:
    with process(words) as running:
        _, said = running.communicate()
    assert running.returncode == 0, said


def kill_after(words: Sequence[str], step: int) -> None:
    """Kills as soon as the run says that it has done so many steps."""
    with process(words) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith(f"step {step}/"):
                break
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL, "it was to be killed before its end"


def lines(output: Path) -> list[dict[str, Any]]:
    """The log without what differs from run to run."""
    return [
        {key: value for key, value in line.items() if key not in TIMINGS and not key.endswith("_per_second")}
        for line in read_log(output / "log.jsonl")
    ]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("recipe", RUNS)
def test_a_run_killed_three_times_ends_as_an_unbroken_one(start: Path, tmp_path: Path, recipe: str) -> None:
    more, in_epoch = RUNS[recipe]
    data, num_steps = write_rows(tmp_path), EPOCHS * in_epoch
    values = settings(start, *more, f"epochs={EPOCHS}", "seed=5")
    run(command(recipe, data, tmp_path / "whole", values))
    killed = command(recipe, data, tmp_path / "killed", values)
    chance = random.Random(recipe)
    for step in sorted(chance.sample(range(1, num_steps - 12), 3)):
        kill_after(killed, step)
    run(killed)

    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    steps = [line["step"] for line in lines(tmp_path / "whole") if "losses" in line]
    assert steps == list(range(1, num_steps + 1))
    best = [load_file(tmp_path / name / "output_best" / "model.safetensors") for name in ("killed", "whole")]
    assert all(bool((best[0][name] == tensor).all()) for name, tensor in best[1].items())
    progress = [RunFolder(tmp_path / name).load() for name in ("killed", "whole")]
    assert progress[0] is not None
    assert progress[1] is not None
    assert progress[0][0] == progress[1][0]
