"""What a forward pass asks torch for: peaks and largest pieces, from the allocator's own record."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the CPU, above what was there before."""

    peak: int
    """Most that was held at once."""
    largest: int
    """Largest single piece, inside of operators too."""


def measure_memory(run: Callable[[], object]) -> Memory:
    """Runs twice, the second time under torch's profiler, which records what its allocator gives and takes back.

    Unlike the process's resident size this knows neither earlier peaks nor what the allocator keeps for later; what a
    library allocates past torch (oneDNN's buffers) is not in it.
    """
    with torch.inference_mode():
        run()  # so that what is made once and kept is not counted
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
    changes = _changes(profiler)
    held = peak = 0
    for change in changes:
        held += change
        peak = max(peak, held)
    return Memory(peak, max(changes, default=0))


def _changes(profiler: profile) -> list[int]:
    """Bytes of every allocation, and of every release as negative ones, in order of time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    memory = [event for event in events if event["name"] == "[memory]"]
    return [int(event["args"]["Bytes"]) for event in sorted(memory, key=lambda event: float(event["ts"]))]
