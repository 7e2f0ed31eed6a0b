"""A batch under way: its runner between two quanta, and what it has delivered."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

import torch

from mplug_services.kind_queue import Entry, Quantum
from mplug_services.runners.runner import Newcomers, Runner
from mplug_services.work import DeadlineExceededError, Progress, WorkResult


@dataclass(slots=True, eq=False)
class _Seat:
    """An item of the batch."""

    entry: Entry
    seconds_before: float
    """Model time of the batch before the item was there."""
    began: float = field(default_factory=time.monotonic)
    settled: bool = False

    @property
    def alive(self) -> bool:
        return not self.settled and self.entry.alive and not self.entry.expired(time.monotonic())


class RunningBatch:
    """Items that a runner works on; others may join them.

    Deliveries are kept until the quantum is over and accounted for: then `flush` hands them out.

    Args:
        runner: of the items' kind.
        quantum: the items.
        number: of the first quantum.
    """

    def __init__(self, runner: Runner, quantum: Quantum, number: int) -> None:
        self._quantum = quantum
        self._number = number
        self._places = itertools.count()
        self._seats: dict[int, _Seat] = {}
        """By place, items that have no outcome, or one that was not handed out yet."""
        self._delivered: list[tuple[_Seat, object]] = []
        self._steps = runner.run(list(self._seat_newcomers().values()), self._deliver, self._alive)

    def advance(self) -> bool:
        """Run one quantum; whether there are more."""
        newcomers = self._seat_newcomers()
        if not any(seat.alive for seat in self._seats.values()):
            return self._close()
        try:
            with torch.inference_mode():
                self._step(newcomers)
        except StopIteration:
            return self._close()
        except Exception as error:
            self._settle_rest(error)
            return False
        return True

    def flush(self) -> None:
        """Hand out what has been delivered since, and forget items that nobody waits for."""
        for place, seat in self._seats.items():
            if seat.entry.future.abandoned:
                self._deliver(place, CancelledError())
        for seat, value in self._delivered:
            future = seat.entry.future
            if isinstance(value, Progress):
                future.report(value.value)
            else:
                future.settle(value if isinstance(value, Exception) else self._result(seat, value))
        self._delivered.clear()
        self._seats = {place: seat for place, seat in self._seats.items() if not seat.entry.future.done()}

    def _seat_newcomers(self) -> Newcomers:
        seats = {
            next(self._places): _Seat(entry, self._quantum.seconds)
            for entry in self._quantum.take_newcomers()
        }
        self._seats |= seats
        return {place: seat.entry.item for place, seat in seats.items()}

    def _step(self, newcomers: Newcomers) -> None:
        if isinstance(self._steps, Generator):
            self._steps.send(newcomers or None)
        else:
            next(self._steps)

    def _close(self) -> bool:
        if isinstance(self._steps, Generator):
            self._steps.close()
        self._settle_rest(AssertionError("the runner ended without a result for this item"))
        return False

    def _settle_rest(self, error: Exception) -> None:
        for place, seat in self._seats.items():
            if seat.entry.future.abandoned:
                self._deliver(place, CancelledError())
            elif seat.entry.expired(time.monotonic()):
                self._deliver(place, DeadlineExceededError("the deadline passed while the model was at work"))
            else:
                self._deliver(place, error)

    def _deliver(self, place: int, value: object) -> None:
        seat = self._seats.get(place)
        if seat is not None and not seat.settled:
            seat.settled = not isinstance(value, Progress)
            self._delivered.append((seat, value))

    def _alive(self, place: int) -> bool:
        return place in self._seats and self._seats[place].alive

    def _result(self, seat: _Seat, value: object) -> WorkResult:
        waited = seat.began - seat.entry.submitted
        seconds = self._quantum.seconds - seat.seconds_before
        return WorkResult(value, waited, seconds, self._number)
