"""The work of one kind: items that wait, and batches that are between two quanta."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass

from mplug_services.work import ResultFuture, WorkItem, WorkKind


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One admitted item."""

    item: WorkItem
    future: ResultFuture
    submitted: float
    wanted: float
    """When it wants to be served: the order of the queue."""
    sequence: int

    def expired(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.item.deadline is not None and self.item.deadline <= now

    @property
    def alive(self) -> bool:
        """Whether it is neither settled nor abandoned."""
        return not self.future.done() and not self.future.abandoned


@dataclass(slots=True, eq=False)
class Quantum:
    """Items of one kind that go through the model together, for as many quanta as they need."""

    kind: WorkKind
    entries: tuple[Entry, ...]
    seconds: float = 0.0
    """Model time so far."""

    @property
    def wanted(self) -> float:
        """When its most urgent item wants to be served; minus infinity where none is of use: it can be dropped."""
        return min((entry.wanted for entry in self.entries if entry.alive), default=-math.inf)


class KindQueue:
    """Items in the order in which they want to be served; the caller holds the lock.

    Args:
        budget: cost that one quantum may hold.
        share: weight of the kind's claim on the model's time.
    """

    def __init__(self, budget: int, share: float) -> None:
        self.budget = budget
        self.share = share
        self.used = 0.0
        """Model time that the kind has had, divided by its share."""
        self.suspended: list[Quantum] = []
        """Batches between two quanta."""
        self.running: Quantum | None = None
        self._rows: list[tuple[float, int, Entry]] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def waits(self) -> bool:
        """Whether there is something to run."""
        return bool(self._rows or self.suspended)

    @property
    def wanted(self) -> float:
        """When the most urgent of its work wants to be served."""
        first = self._rows[0][0] if self._rows else math.inf
        return min([first, *(quantum.wanted for quantum in self.suspended)])

    def insert(self, entry: Entry) -> None:
        """Queue an item."""
        insort(self._rows, (entry.wanted, entry.sequence, entry), key=lambda row: row[:2])

    def remove(self, entry: Entry) -> None:
        """Take out an item, if it still waits."""
        place = bisect_left(self._rows, (entry.wanted, entry.sequence), key=lambda row: row[:2])
        if place < len(self._rows) and self._rows[place][2] is entry:
            del self._rows[place]

    def clear(self) -> list[Entry]:
        """Take out everything."""
        entries = [row[2] for row in self._rows]
        entries += [entry for quantum in self.suspended for entry in quantum.entries]
        self._rows.clear()
        self.suspended.clear()
        return entries

    def take_expired(self, now: float) -> list[Entry]:
        """Items past their deadline: those that wait leave, those of suspended batches are only named."""
        expired = [row[2] for row in self._rows if row[2].expired(now)]
        if expired:
            self._rows = [row for row in self._rows if not row[2].expired(now)]
        begun = (entry for quantum in self.suspended for entry in quantum.entries)
        return expired + [entry for entry in begun if entry.alive and entry.expired(now)]

    def take_quantum(self, kind: WorkKind) -> Quantum | None:
        """Take the most urgent batch: one that was begun, or a new one from the front; None: nothing is left."""
        resumed = min(self.suspended, key=lambda quantum: quantum.wanted, default=None)
        if resumed is not None and (not self._rows or resumed.wanted <= self._rows[0][0]):
            self.suspended.remove(resumed)
            return resumed
        entries = self._take_batch()
        return Quantum(kind, tuple(entries)) if entries else None

    def _take_batch(self) -> list[Entry]:
        """The first item and those behind it that run with it, while the batch stays within the budget.

        A batch costs its longest item times their number, as if padded. Items of another group are passed over.
        """
        taken: list[Entry] = []
        kept: list[tuple[float, int, Entry]] = []
        group: Hashable = None
        largest = 0
        for place, row in enumerate(self._rows):
            entry = row[2]
            if taken and entry.item.group != group:
                kept.append(row)
                continue
            larger = max(largest, entry.item.cost)
            if taken and (len(taken) + 1) * larger > self.budget:
                kept += self._rows[place:]
                break
            # Once running, a future is not taken out of the queue any more; one cancelled an instant ago is left out.
            if entry.future.set_running_or_notify_cancel():
                taken.append(entry)
                group, largest = entry.item.group, larger
        self._rows = kept
        return taken
