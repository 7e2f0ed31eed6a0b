"""How long a call takes: CUDA graphs replayed between events, or the clock of a CPU.

Calls go around several sets of inputs: one set is found in the L2 cache by the next call, many together do not fit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]
REPLAYS = 15
LEAST_REPLAY = 2e-3
"""Seconds of one replay, at least: shorter ones measure the events."""
MOST_CALLS = 400
"""In one graph."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one call."""

    seconds: float
    """The median of the replays."""
    spread: float
    """Half the distance of the quartiles, as a share of the median."""
    how: str
    """`graph`, `events` or `clock`."""


def time_calls(calls: Sequence[Call], device: torch.device, *, seconds: float = 0.25) -> Timing:
    """Time calls that do the same on different inputs.

    Args:
        calls: one for each set of inputs.
        device: where they run.
        seconds: what it may take, about.
    """
    for call in calls:
        call()
    if device.type != "cuda":
        return _summary([_clock(calls) for _ in range(3)], len(calls), "clock")
    torch.cuda.synchronize()
    once = max(1e-7, _events(calls, 1) / len(calls))
    passes = max(1, min(MOST_CALLS, round(LEAST_REPLAY / once)) // len(calls))
    replays = max(3, min(REPLAYS, int(seconds / (once * passes * len(calls)))))
    try:
        graph = _capture(calls, passes)
    except RuntimeError:
        return _summary([_events(calls, passes) for _ in range(replays)], passes * len(calls), "events")
    times = [_events([graph.replay], 1) for _ in range(replays + 1)][1:]
    return _summary(times, passes * len(calls), "graph")


def _capture(calls: Sequence[Call], passes: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(passes):
            for call in calls:
                call()
    return graph


def _events(calls: Sequence[Call], passes: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(passes):
        for call in calls:
            call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _clock(calls: Sequence[Call]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - start


def _summary(times: list[float], calls: int, how: str) -> Timing:
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4)
    return Timing(median / calls, (high - low) / 2 / median, how)
