"""Batches that take in what waits, between two quanta."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import pytest

from mplug_services.kind_queue import Quantum
from mplug_services.scheduler import Scheduler
from mplug_services.work import QueueFullError, ResultFuture, WorkItem, WorkKind, WorkResult

BUDGET = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Joining(WorkItem):
    """Work that joins a batch of its key."""

    of_cost: int = 10
    key: str = "one"
    joins_others: bool = True

    @property
    def kind(self) -> WorkKind:
        return WorkKind.GENERATE

    @property
    def cost(self) -> int:
        return self.of_cost

    @property
    def batch_key(self) -> Hashable:
        return self.key

    @property
    def joins(self) -> bool:
        return self.joins_others


def make_scheduler(capacity: int = 64) -> Scheduler:
    return Scheduler(capacity, {WorkKind.GENERATE: BUDGET})


def submit(scheduler: Scheduler, *items: WorkItem, now: float = 0.0) -> list[ResultFuture]:
    futures = scheduler.submit(items, now)
    return [future for future in futures if isinstance(future, ResultFuture)]


def take(scheduler: Scheduler, now: float = 0.0) -> Quantum:
    quantum = scheduler.next_quantum(now)
    assert quantum is not None
    return quantum


def settle(future: ResultFuture) -> None:
    future.settle(WorkResult(None, 0.0, 0.0, 1))


def test_what_waits_joins_a_batch_of_its_group_between_two_quanta() -> None:
    scheduler = make_scheduler()
    long, other, short = Joining(), Joining(key="two"), Joining()
    submit(scheduler, long)
    batch = take(scheduler)
    assert [entry.item for entry in batch.take_newcomers()] == [long]
    submit(scheduler, other, short, now=0.1)
    scheduler.suspend(batch, 0.1)
    assert take(scheduler, 0.2) is batch
    assert [entry.item for entry in batch.take_newcomers()] == [short]
    assert [entry.item for entry in batch.entries] == [long, short]
    assert len(scheduler) == 1, "one of another group waits on"


def test_only_work_that_says_so_joins() -> None:
    scheduler = make_scheduler()
    submit(scheduler, Joining(joins_others=False))
    batch = take(scheduler)
    submit(scheduler, Joining(joins_others=False), now=0.1)
    scheduler.suspend(batch, 0.1)
    assert take(scheduler, 0.2) is batch
    assert len(batch.entries) == 1


def test_a_batch_is_joined_within_its_budget_and_in_order() -> None:
    scheduler = make_scheduler()
    (first,) = submit(scheduler, Joining(of_cost=10))
    batch = take(scheduler)
    large, small = Joining(of_cost=21), Joining(of_cost=10)
    submit(scheduler, large, small, now=0.1)
    scheduler.suspend(batch, 0.1)
    assert take(scheduler, 0.2) is batch
    assert len(batch.entries) == 1, "two of 21 are beyond 40, and nothing overtakes the large one"
    settle(first)
    scheduler.complete(batch, 0.1)
    assert [entry.item for entry in take(scheduler, 0.3).entries] == [large]


@pytest.mark.parametrize("leaving", ["done", "abandoned"])
def test_who_leaves_makes_room(leaving: str) -> None:
    scheduler = make_scheduler()
    futures = submit(scheduler, *[Joining() for _ in range(5)])
    batch = take(scheduler)
    scheduler.suspend(batch, 0.1)
    assert take(scheduler, 0.1) is batch
    assert (len(batch.entries), len(scheduler)) == (4, 1)
    if leaving == "done":
        settle(futures[1])
    else:
        futures[1].cancel()
    scheduler.suspend(batch, 0.1)
    assert take(scheduler, 0.2) is batch
    assert len(scheduler) == 0


def test_an_urgent_item_is_taken_in_at_once() -> None:
    """Rather than begin a batch of its own beside one that it could join."""
    scheduler = make_scheduler()
    submit(scheduler, Joining(patience=10.0))
    batch = take(scheduler)
    urgent = Joining(patience=1.0)
    submit(scheduler, urgent, now=0.1)
    scheduler.suspend(batch, 0.1)
    assert take(scheduler, 0.2) is batch
    assert batch.wanted == pytest.approx(1.1)


def test_one_of_another_group_waits_no_longer_than_for_those_before_it() -> None:
    scheduler = make_scheduler()
    (long,) = submit(scheduler, Joining())
    batch = take(scheduler)
    other = Joining(key="two")
    submit(scheduler, other, now=1.0)
    for step in range(20):  # a stream of short ones that join
        (short,) = submit(scheduler, Joining(), now=2.0 + step)
        scheduler.suspend(batch, 0.01)
        assert take(scheduler, 2.0 + step) is batch
        settle(short)
    settle(long)
    submit(scheduler, Joining(), now=30.0)
    scheduler.complete(batch, 0.01)
    assert [entry.item for entry in take(scheduler, 30.0).entries] == [other]


def test_the_retry_hint_learns_from_a_batch_that_never_ends() -> None:
    scheduler = make_scheduler(capacity=1)
    submit(scheduler, Joining())
    batch = take(scheduler)
    for step in range(30):
        (short,) = submit(scheduler, Joining(), now=float(step))
        scheduler.suspend(batch, 2.0)
        assert take(scheduler, float(step)) is batch
        assert len(batch.entries) <= 3, "who is done is let go"
        settle(short)
    submit(scheduler, Joining(), now=40.0)
    with pytest.raises(QueueFullError) as refused:
        scheduler.reserve(1)
    assert refused.value.retry_after == pytest.approx(2.0, rel=0.1)
