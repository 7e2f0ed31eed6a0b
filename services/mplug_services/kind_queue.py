"""The work of one kind: items that wait, and batches that are between two quanta."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
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
    entries: list[Entry]
    """Those that are not known to be done."""
    newcomers: list[Entry]
    """Of them, those that nobody has begun with."""
    seconds: float = 0.0
    """Model time so far."""
    measured_seconds: float = 0.0
    """Of it, what went into items that have left."""

    @property
    def alive(self) -> list[Entry]:
        """Those that somebody waits for."""
        return [entry for entry in self.entries if entry.alive]

    @property
    def wanted(self) -> float:
        """When its most urgent item wants to be served; minus infinity where none is of use: it can be dropped."""
        return min((entry.wanted for entry in self.alive), default=-math.inf)

    def join(self, entries: Sequence[Entry]) -> None:
        """Take in further items."""
        self.entries += entries
        self.newcomers += entries

    def take_newcomers(self) -> list[Entry]:
        """Those that nobody has begun with; from now on somebody has."""
        newcomers, self.newcomers = self.newcomers, []
        return newcomers

    def drop_done(self) -> int:
        """Let go of items that are done; how many these were."""
        before = len(self.entries)
        self.entries = [entry for entry in self.entries if not entry.future.done()]
        return before - len(self.entries)


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
        """Take the most urgent batch: one that was begun, with what joins it, or a new one; None: nothing is left."""
        resumed = self._resumed()
        if resumed is None:
            entries = self._take([])
            return Quantum(kind, entries, list(entries)) if entries else None
        self.suspended.remove(resumed)
        begun = resumed.alive
        if begun and begun[0].item.joins:
            resumed.join(self._take(begun))
        return resumed

    def _resumed(self) -> Quantum | None:
        """The begun batch that is more urgent than all that waits, or that the first of what waits can join."""
        resumed = min(self.suspended, key=lambda quantum: quantum.wanted, default=None)
        if resumed is None or not self._rows or resumed.wanted <= self._rows[0][0]:
            return resumed
        first = self._rows[0][2].item
        joinable = (
            quantum for quantum in self.suspended if first.joins and self._admits(quantum.alive, first)
        )
        return next(joinable, None)

    def _admits(self, begun: Sequence[Entry], item: WorkItem) -> bool:
        if not begun or begun[0].item.group != item.group:
            return False
        return (len(begun) + 1) * max(item.cost, _largest(begun)) <= self.budget

    def _take(self, begun: Sequence[Entry]) -> list[Entry]:
        """Items that run with those that were begun, or with the first of all, while the batch stays within the budget.

        A batch costs its longest item times their number, as if padded. Items of another group are passed over.
        """
        batch = list(begun)
        largest = _largest(begun)
        kept: list[tuple[float, int, Entry]] = []
        for place, row in enumerate(self._rows):
            entry = row[2]
            if batch and entry.item.group != batch[0].item.group:
                kept.append(row)
                continue
            larger = max(largest, entry.item.cost)
            if batch and (len(batch) + 1) * larger > self.budget:
                kept += self._rows[place:]
                break
            # Once running, a future is not taken out of the queue any more; one cancelled an instant ago is left out.
            if entry.future.set_running_or_notify_cancel():
                batch.append(entry)
                largest = larger
        self._rows = kept
        return batch[len(begun) :]


def _largest(entries: Sequence[Entry]) -> int:
    return max((entry.item.cost for entry in entries), default=0)
