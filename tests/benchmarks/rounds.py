"""Contenders timed in turn, so that a slow minute of the machine is everybody's."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster one contender is than another; above 1 it is faster."""

    of_minima: float
    of_medians: float

    def __str__(self) -> str:
        return f"{self.of_minima:.2f} ({self.of_medians:.2f})"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of every round of every contender."""

    seconds: Mapping[str, list[float]]

    def speedup(self, name: str, over: str) -> Ratio:
        """How many times faster `name` is than `over`: minima, and medians."""
        ours, theirs = self.seconds[name], self.seconds[over]
        return Ratio(min(theirs) / min(ours), statistics.median(theirs) / statistics.median(ours))


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int = MIN_ROUNDS) -> Timings:
    """Times each contender once a round, the order turned by one from round to round.

    Args:
        contenders: What to run, by name. Each runs once more, untimed, before the first round.
        rounds: How many.
    """
    names = list(contenders)
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(_time(contenders[name]))
    return Timings(seconds)


def _time(run: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
