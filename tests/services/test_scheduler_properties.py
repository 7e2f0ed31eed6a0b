"""Any sequence of submissions, cancellations and quanta, whole, suspended or joined, keeps the scheduler's promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mplug_services.kind_queue import Quantum
from mplug_services.scheduler import Scheduler
from mplug_services.work import (
    DeadlineExceededError,
    QueueFullError,
    ResultFuture,
    WorkItem,
    WorkKind,
    WorkResult,
)

T = TypeVar("T")

CAPACITY = 12
BUDGETS = {WorkKind.TEXT: 30, WorkKind.CAPTION: 40, WorkKind.GENERATE: 60}
JOINABLE = WorkKind.GENERATE
MAX_LEAD = 0.5
LONGEST_QUANTUM = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Item(WorkItem):
    """Work of any kind, cost and batch key."""

    of_kind: WorkKind
    of_cost: int
    key: int

    @property
    def kind(self) -> WorkKind:
        return self.of_kind

    @property
    def cost(self) -> int:
        return self.of_cost

    @property
    def batch_key(self) -> Hashable:
        return self.key

    @property
    def joins(self) -> bool:
        return self.of_kind is JOINABLE


items = st.builds(
    Item,
    of_kind=st.sampled_from(list(BUDGETS)),
    of_cost=st.integers(1, 30),
    key=st.integers(0, 1),
    deadline=st.one_of(st.none(), st.floats(0, 60)),
    patience=st.floats(0, 20),
)
seconds_of_a_quantum = st.floats(0.01, LONGEST_QUANTUM)


@dataclass(eq=False)
class Admitted:
    """What the machine knows of an item."""

    item: Item
    future: Future[WorkResult]
    number: int
    wanted: float

    def expired(self, now: float) -> bool:
        return self.item.deadline is not None and self.item.deadline <= now

    @property
    def order(self) -> tuple[float, int]:
        return self.wanted, self.number

    @property
    def alive(self) -> bool:
        """Neither settled nor left by who waits for it."""
        assert isinstance(self.future, ResultFuture)
        return not self.future.done() and not self.future.abandoned


class SchedulerMachine(RuleBasedStateMachine):
    """A model of what waits, what is suspended and what runs, in plain lists; one worker takes and gives back."""

    @initialize()
    def start(self) -> None:
        self.scheduler = Scheduler(CAPACITY, BUDGETS, max_lead=MAX_LEAD)
        self.numbers = itertools.count()
        self.all: list[Admitted] = []
        self.waiting: list[Admitted] = []
        self.suspended: dict[Quantum, list[Admitted]] = {}
        self.running: tuple[Quantum, list[Admitted]] | None = None
        self.reserved = 0
        self.now = 0.0
        # Model time that one kind got while another one waited throughout and got none.
        self.lead = dict.fromkeys(itertools.permutations(BUDGETS, 2), 0.0)

    @rule(count=st.integers(1, 6))
    def reserve(self, count: int) -> None:
        if self.has_room(count, lambda: self.scheduler.reserve(count)):
            self.reserved += count

    @rule(batch=st.lists(items, min_size=1, max_size=6))
    def submit(self, batch: list[Item]) -> None:
        self.has_room(len(batch), lambda: self.admit(batch, self.scheduler.submit(batch, self.now)))

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def use_reserved_room(self, data: st.DataObject) -> None:
        batch = data.draw(st.lists(items, max_size=self.reserved))
        self.admit(batch, self.scheduler.enqueue(batch, self.now))
        self.reserved -= len(batch)

    @precondition(lambda self: self.reserved)
    @rule()
    def release(self) -> None:
        self.scheduler.release(self.reserved)
        self.reserved = 0

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = draw_one(data, self.all)
        begun, done = one not in self.waiting, one.future.done()
        assert one.future.cancel() == (not begun or one.future.cancelled())
        assert done or begun == (not one.future.done())
        self.waiting = [each for each in self.waiting if each is not one]

    @rule(seconds=st.floats(0, 5))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.running is None)
    @rule()
    def take(self) -> None:
        quantum = self.scheduler.next_quantum(self.now)
        self.drop_expired()
        if quantum is None:
            assert not self.waiting
            assert not self.suspended
            return
        entries = self.suspended.pop(quantum, None)
        entries = self.take_new(quantum) if entries is None else self.take_up(quantum, entries)
        others = [wanted_by(each) for of, each in self.suspended.items() if of.kind is quantum.kind]
        assert all(wanted_by(entries) <= other for other in others), "a suspended batch is more urgent"
        costs = [each.item.cost for each in entries if each.alive]
        assert len(costs) < 2 or len(costs) * max(costs) <= BUDGETS[quantum.kind], "beyond the budget"
        self.running = quantum, entries

    def take_new(self, quantum: Quantum) -> list[Admitted]:
        """The first of its kind, and those behind it that fit: none twice, none that nobody waits for."""
        rows = self.of_kind(quantum.kind)
        expected = expected_batch(rows, BUDGETS[quantum.kind])
        for kind, begun in ((of.kind, of_batch) for of, of_batch in self.suspended.items()):
            if kind is quantum.kind is JOINABLE and wanted_by(begun) > -np.inf:
                assert rows[0] not in expected_batch(rows, BUDGETS[kind], begun), (
                    "it could have joined a batch"
                )
        return self.begin_with(quantum, expected)

    def take_up(self, quantum: Quantum, entries: list[Admitted]) -> list[Admitted]:
        """A suspended batch, and those that join it, in order and as far as they fit."""
        rows = self.of_kind(quantum.kind)
        joinable = quantum.kind is JOINABLE and wanted_by(entries) > -np.inf
        joining = expected_batch(rows, BUDGETS[quantum.kind], entries) if joinable else []
        if rows and wanted_by(entries) > rows[0].wanted:
            assert joining[:1] == rows[:1], "what waits is more urgent"
        return entries + self.begin_with(quantum, joining)

    def begin_with(self, quantum: Quantum, expected: list[Admitted]) -> list[Admitted]:
        assert [entry.item for entry in quantum.take_newcomers()] == [each.item for each in expected]
        assert all(each.future.running() for each in expected)
        self.waiting = [each for each in self.waiting if each not in expected]
        return expected

    @precondition(lambda self: self.running)
    @rule(seconds=seconds_of_a_quantum)
    def finish(self, seconds: float) -> None:
        assert self.running
        quantum, entries = self.running
        self.scheduler.complete(quantum, seconds)
        self.account(quantum.kind, seconds)
        for each in entries:
            self.settle(each)
        self.running = None

    @precondition(lambda self: self.running is None)
    @rule(count=st.integers(2, 8), seconds=seconds_of_a_quantum)
    def work(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.take()
            if self.running:
                self.finish(seconds)

    @precondition(lambda self: self.running)
    @rule(seconds=seconds_of_a_quantum, data=st.data())
    def suspend(self, seconds: float, data: st.DataObject) -> None:
        """Some of its items are done, the others go on: a batch none of which does is no longer run."""
        assert self.running
        quantum, entries = self.running
        alive = [each for each in entries if each.alive]
        for each in data.draw(st.permutations(alive))[1:]:
            if data.draw(st.booleans()):
                self.settle(each)
        if alive:
            self.scheduler.suspend(quantum, seconds)
            self.account(quantum.kind, seconds)
            self.suspended[quantum] = entries
            self.running = None

    @invariant()
    def only_what_has_not_begun_takes_room(self) -> None:
        assert len(self.scheduler) == len(self.waiting)
        assert self.scheduler.occupied == len(self.waiting) + self.reserved <= CAPACITY

    @invariant()
    def what_has_begun_and_is_not_settled_has_a_place(self) -> None:
        places = [*self.waiting, *itertools.chain(*self.suspended.values())]
        places += self.running[1] if self.running else []
        assert len({id(each) for each in places}) == len(places), "an item is in two places"
        left = [each for each in self.all if not each.future.done()]
        assert all(any(each is one for one in places) for each in left), "an item is lost"

    def teardown(self) -> None:
        """Whatever was done, all that is left can be brought to its end."""
        if not hasattr(self, "scheduler"):
            return
        if self.running:
            self.finish(0.1)
        for _ in range(len(self.all) + 1):
            self.take()
            if not self.running:
                break
            self.finish(0.1)
        assert all(each.future.done() for each in self.all)
        self.scheduler.release(self.reserved)
        assert self.scheduler.occupied == 0
        self.scheduler.reserve(CAPACITY)

    def has_room(self, count: int, admission: Callable[[], object]) -> bool:
        fits = len(self.waiting) + self.reserved + count <= CAPACITY
        try:
            admission()
        except QueueFullError as error:
            assert not fits
            assert error.retry_after > 0
        else:
            assert fits
        return fits

    def admit(self, batch: Sequence[Item], futures: Sequence[Future[WorkResult]]) -> None:
        for item, future in zip(batch, futures, strict=True):
            wanted = min(np.inf if item.deadline is None else item.deadline, self.now + item.patience)
            one = Admitted(item, future, next(self.numbers), wanted)
            self.all.append(one)
            self.waiting.append(one)

    def of_kind(self, kind: WorkKind) -> list[Admitted]:
        return sorted((each for each in self.waiting if each.item.kind is kind), key=lambda each: each.order)

    def drop_expired(self) -> None:
        for each in [*self.waiting, *itertools.chain(*self.suspended.values())]:
            assert not (each.expired(self.now) and each.alive), "an item past its deadline waits on"
        late = [each for each in self.waiting if each.future.done()]
        for each in late:
            assert each.expired(self.now)
            assert isinstance(each.future.exception(timeout=0), DeadlineExceededError)
        self.waiting = [each for each in self.waiting if each not in late]

    def settle(self, each: Admitted) -> None:
        assert isinstance(each.future, ResultFuture)
        each.future.settle(WorkResult(each.number, 0.0, 0.1, 1))

    def account(self, served: WorkKind, seconds: float) -> None:
        """No kind that waits throughout falls behind by more than both may be ahead of each other."""
        waits = {each.item.kind for each in self.waiting} | {quantum.kind for quantum in self.suspended}
        for ahead, behind in self.lead:
            if behind is served or behind not in waits:
                self.lead[ahead, behind] = 0.0
            elif ahead is served:
                self.lead[ahead, behind] += seconds
                assert self.lead[ahead, behind] <= 2 * (MAX_LEAD + LONGEST_QUANTUM) + 1e-6


def draw_one(data: st.DataObject, values: Sequence[T]) -> T:
    return values[data.draw(st.integers(0, len(values) - 1))]


def wanted_by(entries: Sequence[Admitted]) -> float:
    return min((each.wanted for each in entries if each.alive), default=-np.inf)


def expected_batch(rows: Sequence[Admitted], budget: int, begun: Sequence[Admitted] = ()) -> list[Admitted]:
    """By the letter: of one batch key, in order, until the next would be one too many for those that have begun."""
    alive = [each for each in begun if each.alive]
    key = (alive or rows)[0].item.key if alive or rows else None
    taken: list[Admitted] = []
    for each in rows:
        if each.item.key != key:
            continue
        batch = [*alive, *taken, each]
        if len(batch) > 1 and len(batch) * max(one.item.cost for one in batch) > budget:
            break
        taken.append(each)
    return taken


TestScheduler = SchedulerMachine.TestCase
# Explaining a failure takes longer than a test may.
TestScheduler.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, phases=set(Phase) - {Phase.explain}
)
