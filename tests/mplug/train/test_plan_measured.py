"""`mplug train plan` against a run that is measured: memory, optimizer states and time."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import planned_runs
from mplug.train.run_state import RunFolder, read_log
from mplug_services.cli import main
from planned_runs import BATCH, HIDDEN, LAYERS, SEQUENCE, STEPS, VOCAB

MEMORY_FACTOR = 1.5
"""A process also grows by what libraries keep, and not all that is planned is held at the same moment."""
TIME_FACTOR = 2.0
"""Other work on the machine may come and go between one half of the run and the other."""


def planned(
    capsys: pytest.CaptureFixture[str], parameters: int, peak: float, utilisation: float
) -> dict[str, Any]:
    sizes = {
        "parameters": parameters,
        "layers": LAYERS,
        "hidden": HIDDEN,
        "vocab": VOCAB,
        "tokens": STEPS * BATCH * SEQUENCE,
        "sequence": SEQUENCE,
        "batch": BATCH,
        "precision": "float32",
        "peak": peak / 1e12,
        "memory": 64,
        "utilisation": utilisation,
    }
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    assert main(["train", "plan", *words, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_measured_run_is_about_as_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, planned_runs.__file__, str(tmp_path)], check=True, timeout=200)
    told = json.loads((tmp_path / "told.json").read_text())
    steps = [line for line in read_log(tmp_path / "log.jsonl") if "mfu" in line]
    assert len(steps) == STEPS - 1, "of the first one operations are counted, which takes time of its own"
    known, measured = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    utilisation = statistics.median(line["mfu"] for line in known)
    plan = planned(capsys, told["parameters"], told["operations_per_second"], utilisation)

    seconds = STEPS * statistics.median(line["seconds_per_step"] for line in measured)
    assert plan["seconds"] / TIME_FACTOR < seconds < plan["seconds"] * TIME_FACTOR
    total = plan["memory"]["total"]
    assert total / MEMORY_FACTOR < told["grown"] < total * MEMORY_FACTOR

    saved = RunFolder(tmp_path).load()
    assert saved is not None
    model, optimizer = saved[1]["model"], saved[1]["optimizer"]["state"]
    assert sum(each.nbytes for each in model.values()) == plan["memory"]["weights"]
    moments = sum(state[name].nbytes for state in optimizer.values() for name in ("exp_avg", "exp_avg_sq"))
    assert moments == plan["memory"]["optimizer"]
