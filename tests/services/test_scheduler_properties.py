"""Any sequence of submissions, cancellations and quanta keeps the scheduler's promises."""

from __future__ import annotations

from concurrent.futures import Future

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mplug_services.kind_queue import Quantum
from mplug_services.scheduler import Scheduler
from mplug_services.work import (
    DeadlineExceededError,
    QueueFullError,
    WorkItem,
    WorkKind,
    WorkResult,
)
from services.serving import image_item, text_item

CAPACITY = 12
BUDGETS = {WorkKind.IMAGE: 3 * 32 * 32, WorkKind.TEXT: 30}
MAX_LEAD = 2.0
LONGEST_QUANTUM = 1.0

deadlines = st.one_of(st.none(), st.floats(0, 40))
items = st.one_of(
    st.builds(lambda deadline: image_item(deadline=deadline), deadlines),
    st.builds(lambda length, deadline: text_item(length, deadline=deadline), st.integers(1, 40), deadlines),
)


class SchedulerMachine(RuleBasedStateMachine):
    """A model of what waits, in plain dicts."""

    @initialize()
    def start(self) -> None:
        self.scheduler = Scheduler(CAPACITY, BUDGETS, max_lead=MAX_LEAD)
        self.waiting: dict[Future[WorkResult], WorkItem] = {}
        self.now = 0.0
        # Model time that each kind got since the other one began to wait.
        self.lead = dict.fromkeys(WorkKind, 0.0)

    @rule(batch=st.lists(items, min_size=1, max_size=6))
    def submit(self, batch: list[WorkItem]) -> None:
        fits = len(self.waiting) + len(batch) <= CAPACITY
        try:
            futures = self.scheduler.submit(batch, self.now)
        except QueueFullError as error:
            assert not fits
            assert error.retry_after > 0
        else:
            assert fits
            self.waiting |= dict(zip(futures, batch, strict=True))

    @rule(place=st.integers(0, 100))
    def cancel(self, place: int) -> None:
        if self.waiting:
            future = list(self.waiting)[place % len(self.waiting)]
            assert future.cancel()
            del self.waiting[future]

    @rule(seconds=st.floats(0, 5))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.floats(0.01, LONGEST_QUANTUM))
    def run_quantum(self, seconds: float) -> None:
        quantum = self.scheduler.next_quantum(self.now)
        self.drop_expired()
        if quantum is None:
            assert not self.waiting
            return
        self.check_quantum(quantum)
        self.check_lead(quantum, seconds)
        self.scheduler.complete(quantum, seconds)
        for entry in quantum.entries:
            assert self.waiting.pop(entry.future) is entry.item

    def drop_expired(self) -> None:
        for future, item in list(self.waiting.items()):
            if item.deadline is not None and item.deadline <= self.now:
                assert isinstance(future.exception(timeout=0), DeadlineExceededError)
                del self.waiting[future]

    def check_quantum(self, quantum: Quantum) -> None:
        costs = [entry.item.cost for entry in quantum.entries]
        assert costs
        assert {entry.item.kind for entry in quantum.entries} == {quantum.kind}
        assert len(costs) == 1 or len(costs) * max(costs) <= BUDGETS[quantum.kind]
        assert all(entry.future.running() for entry in quantum.entries)
        assert all(entry.future in self.waiting for entry in quantum.entries)

    def check_lead(self, quantum: Quantum, seconds: float) -> None:
        """No kind that waits throughout falls behind by more than the lead and one quantum."""
        others = {item.kind for item in self.waiting.values()} - {quantum.kind}
        self.lead[quantum.kind] += seconds
        for kind in WorkKind:
            if kind is not quantum.kind:
                self.lead[quantum.kind] = self.lead[quantum.kind] if kind in others else 0.0
                self.lead[kind] = 0.0
        # What the waiting kind was itself ahead by, at most the lead and a quantum, is worked off first.
        assert self.lead[quantum.kind] <= 2 * (MAX_LEAD + LONGEST_QUANTUM)

    @invariant()
    def bounded(self) -> None:
        assert len(self.scheduler) == self.scheduler.occupied == len(self.waiting) <= CAPACITY


TestScheduler = SchedulerMachine.TestCase
