"""The example that fine-tunes a captioner, as somebody runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetuning_runs import metrics, save_start, settings, write_rows

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_captions.py"


@pytest.mark.long
@pytest.mark.timeout(120)
def test_it_prints_what_the_trainer_measured_of_the_best_model(tmp_path: Path) -> None:
    rows, start = write_rows(tmp_path), save_start(tmp_path / "start")
    output = tmp_path / "output"
    values = [each for each in settings(start) if not each.startswith("start=")]
    command = [sys.executable, str(EXAMPLE), str(rows), str(start), str(output), *values]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    best = max(each["cider"] for each in metrics(output))
    assert f"'cider': {best}" in done.stdout
    assert (output / "output_best" / "config.json").exists()
