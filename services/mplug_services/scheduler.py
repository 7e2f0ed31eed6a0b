"""The queue before the model: bounded, ordered by deadline, fair between kinds, cut into quanta under a cost budget.

A lock-protected data structure without a thread of its own; time is an argument wherever it matters.

Order. Every item wants to be served by `min(deadline, submitted + patience)`. Within a kind, items go in that
order. The kind whose first item wants to be served earliest goes first, unless it is already ahead of another
waiting kind by more than `max_lead` seconds of (weighted) measured model time: then the one that is behind goes.
So an urgent search overtakes bulk work of the other kind, and no kind waits for ever. Since `patience` is finite,
no item waits for ever within its kind either.

Admission. Room is reserved for a whole batch before its pictures are decoded, so that overload is refused before
it costs anything; a batch gets all its room or none, the same for one item as for many.
"""

from __future__ import annotations

import itertools
import math
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from mplug_services.work import (
    BatchTooLargeError,
    DeadlineExceededError,
    EngineStoppedError,
    QueueFullError,
    WorkItem,
    WorkKind,
    WorkResult,
)

MIN_RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 30.0
FIRST_RETRY_SECONDS = 1.0
"""The hint while nothing has been measured yet."""
RATE_SMOOTHING = 0.2
"""Weight of the newest quantum in the measured rate: about the last ten quanta count."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One queued item."""

    item: WorkItem
    future: Future[WorkResult]
    submitted: float
    wanted: float
    """When it wants to be served: the order of the queue."""
    sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class Quantum:
    """Items of one kind that go through the model together."""

    kind: WorkKind
    entries: tuple[Entry, ...]


class Scheduler:
    """Bounded queue of work items.

    Args:
        capacity: most items that may be queued or have room reserved.
        budgets: cost that one quantum of a kind may hold. An item that costs more than that runs alone.
        shares: weight of a kind's claim on the model's time; 1 where not given.
        max_lead: seconds of model time by which a kind may get ahead of another one that waits.

    Raises:
        ValueError: a capacity, budget, share or lead that is not positive.
    """

    def __init__(
        self,
        capacity: int,
        budgets: Mapping[WorkKind, int],
        *,
        shares: Mapping[WorkKind, float] | None = None,
        max_lead: float = 1.0,
    ) -> None:
        self.capacity = capacity
        self._budgets = dict(budgets)
        self._shares = dict.fromkeys(budgets, 1.0) | dict(shares or {})
        self._max_lead = max_lead
        self._check_arguments()
        self._lock = threading.Lock()
        self._queues: dict[WorkKind, list[tuple[float, int, Entry]]] = {kind: [] for kind in budgets}
        self._used = dict.fromkeys(budgets, 0.0)
        self._sequence = itertools.count()
        self._reserved = 0
        self._closed = False
        self._broken: Exception | None = None
        self._seconds_per_item = 0.0

    def _check_arguments(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity is {self.capacity}; the queue must hold at least 1 item")
        if self._max_lead <= 0:
            raise ValueError(f"max_lead is {self._max_lead}; it must be above 0 seconds")
        for name, numbers in (("budgets", self._budgets), ("shares", self._shares)):
            for kind, number in numbers.items():
                if number <= 0:
                    raise ValueError(f"{name}[{kind}] is {number}; it must be above 0")

    def __len__(self) -> int:
        """Items that wait for the model."""
        with self._lock:
            return self._queued()

    @property
    def occupied(self) -> int:
        """Items that wait, and those for which room is reserved."""
        with self._lock:
            return self._queued() + self._reserved

    @property
    def closed(self) -> bool:
        """Whether admission has ended."""
        return self._closed

    def reserve(self, count: int) -> None:
        """Take room for a batch before its items are ready.

        Raises:
            BatchTooLargeError: the batch is larger than the whole queue.
            QueueFullError: there is no room now.
            EngineStoppedError: admission has ended.
        """
        with self._lock:
            if self._closed:
                raise EngineStoppedError("the server is shutting down")
            if count > self.capacity:
                raise BatchTooLargeError(
                    f"the batch has {count} items and the queue holds {self.capacity}; split it"
                )
            excess = self._queued() + self._reserved + count - self.capacity
            if excess > 0:
                raise QueueFullError(f"the queue of {self.capacity} items is full", self._retry_after(excess))
            self._reserved += count

    def release(self, count: int) -> None:
        """Give back room that was reserved and will not be used."""
        with self._lock:
            assert 0 <= count <= self._reserved, (count, self._reserved)
            self._reserved -= count

    def enqueue(self, items: Sequence[WorkItem], now: float) -> list[Future[WorkResult]]:
        """Queue items for which room was reserved; cancelling a future takes its item out at once."""
        entries = [self._entry(item, now) for item in items]
        with self._lock:
            assert len(items) <= self._reserved, (len(items), self._reserved)
            self._reserved -= len(items)
            broken = self._broken
            if broken is None:
                for entry in entries:
                    self._insert(entry)
        for entry in entries:
            if broken is None:
                entry.future.add_done_callback(self._remover(entry))
            else:
                entry.future.set_exception(broken)
        return [entry.future for entry in entries]

    def submit(self, items: Sequence[WorkItem], now: float) -> list[Future[WorkResult]]:
        """`reserve` and `enqueue` in one step, with the errors of `reserve`."""
        self.reserve(len(items))
        return self.enqueue(items, now)

    def next_quantum(self, now: float) -> Quantum | None:
        """Take the next items for the model; None when nothing waits.

        Items past their deadline get `DeadlineExceededError` and do not run.
        """
        with self._lock:
            expired = self._take_expired(now)
            quantum = self._take_quantum()
        for entry in expired:
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(
                    DeadlineExceededError("the deadline passed while waiting for the model")
                )
        return quantum

    def complete(self, quantum: Quantum, seconds: float) -> None:
        """Account for a quantum that has run, in seconds of the model's time."""
        per_item = seconds / len(quantum.entries)
        with self._lock:
            self._used[quantum.kind] += seconds / self._shares[quantum.kind]
            known = self._seconds_per_item > 0
            weight = RATE_SMOOTHING if known else 1.0
            self._seconds_per_item += weight * (per_item - self._seconds_per_item)

    def close(self) -> None:
        """End admission. What is queued or reserved may still run."""
        with self._lock:
            self._closed = True

    def fail_all(self, error: Exception) -> None:
        """End admission and let everything fail, now and later; for an engine that cannot go on."""
        with self._lock:
            self._closed = True
            self._broken = error
            entries = [entry for queue in self._queues.values() for _, _, entry in queue]
            for queue in self._queues.values():
                queue.clear()
        for entry in entries:
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(error)

    def _queued(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def _retry_after(self, excess: int) -> float:
        if self._seconds_per_item == 0:
            return FIRST_RETRY_SECONDS
        return min(MAX_RETRY_SECONDS, max(MIN_RETRY_SECONDS, excess * self._seconds_per_item))

    def _entry(self, item: WorkItem, now: float) -> Entry:
        deadline = math.inf if item.deadline is None else item.deadline
        wanted = min(deadline, now + item.patience)
        return Entry(item, Future(), now, wanted, next(self._sequence))

    def _insert(self, entry: Entry) -> None:
        kind = entry.item.kind
        if not self._queues[kind]:
            # A kind that was idle saves up no claim on the time that it did not use.
            others = [self._used[other] for other, queue in self._queues.items() if queue]
            self._used[kind] = max([self._used[kind], min(others, default=0.0)])
        insort(self._queues[kind], (entry.wanted, entry.sequence, entry), key=lambda row: row[:2])

    def _remover(self, entry: Entry) -> Callable[[Future[WorkResult]], None]:
        def remove(future: Future[WorkResult]) -> None:
            if not future.cancelled():
                return
            queue = self._queues[entry.item.kind]
            with self._lock:
                place = bisect_left(queue, (entry.wanted, entry.sequence), key=lambda row: row[:2])
                if place < len(queue) and queue[place][2] is entry:
                    del queue[place]

        return remove

    def _take_expired(self, now: float) -> list[Entry]:
        expired: list[Entry] = []
        for kind, queue in self._queues.items():
            kept = []
            for row in queue:
                deadline = row[2].item.deadline
                if deadline is not None and deadline <= now:
                    expired.append(row[2])
                else:
                    kept.append(row)
            if len(kept) < len(queue):
                self._queues[kind][:] = kept
        return expired

    def _take_quantum(self) -> Quantum | None:
        while (kind := self._next_kind()) is not None:
            entries = self._take_within_budget(kind)
            if entries:
                return Quantum(kind, tuple(entries))
        return None

    def _next_kind(self) -> WorkKind | None:
        waiting = [kind for kind, queue in self._queues.items() if queue]
        if not waiting:
            return None
        urgent = min(waiting, key=lambda kind: (self._queues[kind][0][0], self._used[kind]))
        behind = min(waiting, key=lambda kind: self._used[kind])
        return behind if self._used[urgent] - self._used[behind] > self._max_lead else urgent

    def _take_within_budget(self, kind: WorkKind) -> list[Entry]:
        """Entries from the front while their batch, padded to its longest item, stays within the budget."""
        queue = self._queues[kind]
        taken: list[Entry] = []
        largest = 0
        used = 0
        for _, _, entry in queue:
            larger = max(largest, entry.item.cost)
            if taken and (len(taken) + 1) * larger > self._budgets[kind]:
                break
            used += 1
            # Once running, a future cannot be cancelled any more; one cancelled an instant ago is left out.
            if entry.future.set_running_or_notify_cancel():
                taken.append(entry)
                largest = larger
        del queue[:used]
        return taken
