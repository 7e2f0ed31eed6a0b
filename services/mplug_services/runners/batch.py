"""A batch under way: its runner between two quanta, and what it has delivered."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import CancelledError

import torch

from mplug_services.kind_queue import Quantum
from mplug_services.runners.runner import Runner
from mplug_services.work import DeadlineExceededError, Progress, WorkResult


class RunningBatch:
    """Items that a runner works on.

    Deliveries are kept until the quantum is over and accounted for: then `flush` hands them out.

    Args:
        runner: of the items' kind.
        quantum: the items.
        number: of the first quantum.
    """

    def __init__(self, runner: Runner, quantum: Quantum, number: int) -> None:
        self._quantum = quantum
        self._number = number
        self._started = time.monotonic()
        self._delivered: list[tuple[int, object]] = []
        self._settled = [False] * len(quantum.entries)
        items = [entry.item for entry in quantum.entries]
        self._steps = runner.run(items, self._deliver, self._alive)

    def advance(self) -> bool:
        """Run one quantum; whether there are more."""
        if not any(map(self._alive, range(len(self._settled)))):
            return self._close()
        try:
            with torch.inference_mode():
                next(self._steps)
        except StopIteration:
            return self._close()
        except Exception as error:
            self._settle_rest(error)
            return False
        return True

    def flush(self) -> None:
        """Hand out what has been delivered since."""
        for place, value in self._delivered:
            future = self._quantum.entries[place].future
            if isinstance(value, Progress):
                future.report(value.value)
            else:
                future.settle(value if isinstance(value, Exception) else self._result(place, value))
        self._delivered.clear()

    def _close(self) -> bool:
        if isinstance(self._steps, Generator):
            self._steps.close()
        self._settle_rest(AssertionError("the runner ended without a result for this item"))
        return False

    def _settle_rest(self, error: Exception) -> None:
        for place, entry in enumerate(self._quantum.entries):
            if entry.future.abandoned:
                self._deliver(place, CancelledError())
            elif entry.expired(time.monotonic()):
                self._deliver(place, DeadlineExceededError("the deadline passed while the model was at work"))
            else:
                self._deliver(place, error)

    def _deliver(self, place: int, value: object) -> None:
        if not self._settled[place]:
            self._settled[place] = not isinstance(value, Progress)
            self._delivered.append((place, value))

    def _alive(self, place: int) -> bool:
        entry = self._quantum.entries[place]
        return not self._settled[place] and entry.alive and not entry.expired(time.monotonic())

    def _result(self, place: int, value: object) -> WorkResult:
        waited = self._started - self._quantum.entries[place].submitted
        return WorkResult(value, waited, self._quantum.seconds, self._number)
