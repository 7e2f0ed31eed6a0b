"""A model of a published size runs within its plan: peak memory of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import planned_texts
from loading_memory import HAS_PEAK
from mplug.memory_plan import Use, plan
from mplug.planned_models import named_models

PROMPT, WRITTEN = 64, 4
BESIDE = 64 << 20
"""What libraries set aside for themselves."""


@pytest.mark.timeout(300)
@pytest.mark.long
@pytest.mark.skipif(not HAS_PEAK, reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_1_3b_runs_within_its_plan(dtype: str) -> None:
    command = [sys.executable, planned_texts.__file__, "1.3B", dtype, str(PROMPT), str(WRITTEN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)["grown"]
    planned = plan(named_models()["gpt3-1.3B"], dtype, Use(prompt=PROMPT, written=WRITTEN))
    assert planned.weights < grown < planned.total + BESIDE
