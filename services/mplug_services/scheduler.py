"""The queue before the model: bounded, ordered by deadline, fair between kinds, cut into quanta under a cost budget.

A lock-protected data structure without a thread of its own; time is an argument wherever it matters.

Order. Every item wants to be served by `min(deadline, submitted + patience)`. Within a kind, items go in that
order. The kind whose first item wants to be served earliest goes first, unless it is already ahead of another
waiting kind by more than `max_lead` seconds of (weighted) measured model time: then the one that is behind goes.
So an urgent search overtakes bulk work of the other kind, and no kind waits for ever. Since `patience` is finite,
no item waits for ever within its kind either.

Work of several quanta. A batch that is not done after its quantum is suspended: it waits like the rest, by the wish of
its most urgent item, so that an urgent search overtakes a caption between two tokens. Its items fail at their deadline.
Where its items say so, a suspended batch takes in what waits and is of its group, in order and within its budget.

Admission. Room is reserved for a whole batch before its pictures are decoded, so that overload is refused before
it costs anything; a batch gets all its room or none, the same for one item as for many.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

from mplug_services.kind_queue import Entry, KindQueue, Quantum
from mplug_services.work import (
    BatchTooLargeError,
    DeadlineExceededError,
    EngineStoppedError,
    QueueFullError,
    ResultFuture,
    WorkItem,
    WorkKind,
    WorkResult,
)

MIN_RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 30.0
FIRST_RETRY_SECONDS = 1.0
"""The hint while nothing has been measured yet."""
RATE_SMOOTHING = 0.2
"""Weight of the newest measure in the rate: about the last ten count."""


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
        self._max_lead = max_lead
        all_shares = dict.fromkeys(budgets, 1.0) | dict(shares or {})
        self._check_arguments(budgets, all_shares)
        self._lock = threading.Lock()
        self._queues = {kind: KindQueue(budget, all_shares[kind]) for kind, budget in budgets.items()}
        self._sequence = itertools.count()
        self._reserved = 0
        self._closed = False
        self._broken: Exception | None = None
        self._seconds_per_item = 0.0

    def _check_arguments(self, budgets: Mapping[WorkKind, int], shares: Mapping[WorkKind, float]) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity is {self.capacity}; the queue must hold at least 1 item")
        if self._max_lead <= 0:
            raise ValueError(f"max_lead is {self._max_lead}; it must be above 0 seconds")
        for name, numbers in (("budgets", budgets), ("shares", shares)):
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

    def enqueue(
        self,
        items: Sequence[WorkItem],
        now: float,
        *,
        progress: Callable[[int, object], None] | None = None,
    ) -> list[Future[WorkResult]]:
        """Queue items for which room was reserved.

        Cancelling a future takes its item out at once; one that runs ends after the quantum.

        Args:
            items: of any kinds.
            now: the time.
            progress: called in the worker's thread with an item's number and what its runner reports; quick.
        """
        entries = [self._entry(item, now, _listener(progress, place)) for place, item in enumerate(items)]
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
        """Take the next items for the model, new or suspended; None when there are none.

        Items past their deadline get `DeadlineExceededError` and do not run, or not on.
        """
        with self._lock:
            expired = [entry for queue in self._queues.values() for entry in queue.take_expired(now)]
        # Before a batch is taken, so that one that is left without items is known as such.
        _fail(expired, DeadlineExceededError("the deadline passed while waiting for the model"))
        with self._lock:
            return self._take_quantum()

    def complete(self, quantum: Quantum, seconds: float) -> None:
        """Account for the last quantum of a batch, in seconds of the model's time."""
        with self._lock:
            self._account(quantum, seconds)
            self._learn_rate(quantum, len(quantum.entries))

    def suspend(self, quantum: Quantum, seconds: float) -> None:
        """Account for a quantum of a batch that is to go on, and put it back."""
        with self._lock:
            self._account(quantum, seconds)
            self._learn_rate(quantum, quantum.drop_done())
            broken = self._broken
            if broken is None:
                self._queues[quantum.kind].suspended.append(quantum)
        if broken is not None:
            _fail(quantum.entries, broken)

    def close(self) -> None:
        """End admission. What is queued or reserved may still run."""
        with self._lock:
            self._closed = True

    def fail_all(self, error: Exception) -> None:
        """End admission and let everything fail, now and later; for an engine that cannot go on."""
        with self._lock:
            self._closed = True
            self._broken = error
            entries = [entry for queue in self._queues.values() for entry in queue.clear()]
        _fail(entries, error)

    def _queued(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def _retry_after(self, excess: int) -> float:
        if self._seconds_per_item == 0:
            return FIRST_RETRY_SECONDS
        return min(MAX_RETRY_SECONDS, max(MIN_RETRY_SECONDS, excess * self._seconds_per_item))

    def _entry(self, item: WorkItem, now: float, progress: Callable[[object], None] | None) -> Entry:
        deadline = math.inf if item.deadline is None else item.deadline
        wanted = min(deadline, now + item.patience)
        return Entry(item, ResultFuture(progress), now, wanted, next(self._sequence))

    def _insert(self, entry: Entry) -> None:
        queue = self._queues[entry.item.kind]
        if not queue.waits and queue.running is None:
            # A kind that was idle saves up no claim on the time that it did not use.
            queue.used = max(queue.used, self._level())
        queue.insert(entry)

    def _level(self) -> float:
        """Model time of the kind that is furthest behind of those with work; without any, of the one that had most."""
        queues = self._queues.values()
        busy = [queue.used for queue in queues if queue.waits or queue.running is not None]
        return min(busy) if busy else max(queue.used for queue in queues)

    def _remover(self, entry: Entry) -> Callable[[Future[WorkResult]], None]:
        def remove(future: Future[WorkResult]) -> None:
            if future.cancelled():
                with self._lock:
                    self._queues[entry.item.kind].remove(entry)

        return remove

    def _account(self, quantum: Quantum, seconds: float) -> None:
        queue = self._queues[quantum.kind]
        queue.running = None
        queue.used += seconds / queue.share
        quantum.seconds += seconds

    def _learn_rate(self, quantum: Quantum, left: int) -> None:
        if left == 0:
            return
        per_item = (quantum.seconds - quantum.measured_seconds) / left
        quantum.measured_seconds = quantum.seconds
        weight = RATE_SMOOTHING if self._seconds_per_item > 0 else 1.0
        self._seconds_per_item += weight * (per_item - self._seconds_per_item)

    def _take_quantum(self) -> Quantum | None:
        while (kind := self._next_kind()) is not None:
            queue = self._queues[kind]
            queue.running = queue.take_quantum(kind)
            if queue.running is not None:
                return queue.running
        return None

    def _next_kind(self) -> WorkKind | None:
        waiting = {kind: queue for kind, queue in self._queues.items() if queue.waits}
        if not waiting:
            return None
        urgent = min(waiting, key=lambda kind: (waiting[kind].wanted, waiting[kind].used))
        behind = min(waiting, key=lambda kind: waiting[kind].used)
        return behind if waiting[urgent].used - waiting[behind].used > self._max_lead else urgent


def _listener(progress: Callable[[int, object], None] | None, place: int) -> Callable[[object], None] | None:
    return None if progress is None else functools.partial(progress, place)


def _fail(entries: Iterable[Entry], error: Exception) -> None:
    for future in (entry.future for entry in entries):
        if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
            future.settle(error)
