"""Batches between two quanta, and kinds that were idle."""

from __future__ import annotations

import pytest

from mplug_services.kind_queue import Quantum
from mplug_services.scheduler import Scheduler
from mplug_services.work import EngineStoppedError, WorkKind
from services.serving import image_item, make_scheduler, text_item


def begin(scheduler: Scheduler, now: float = 0.0) -> Quantum:
    quantum = scheduler.next_quantum(now)
    assert quantum is not None
    return quantum


def test_an_urgent_item_goes_between_two_quanta_of_a_batch() -> None:
    scheduler = make_scheduler()
    scheduler.submit([image_item()], now=0.0)
    batch = begin(scheduler)
    scheduler.submit([text_item(deadline=1.0)], now=0.1)
    scheduler.suspend(batch, 0.1)
    urgent = begin(scheduler, 0.1)
    assert urgent.kind is WorkKind.TEXT
    scheduler.complete(urgent, 0.1)
    assert begin(scheduler, 0.2) is batch
    assert batch.seconds == pytest.approx(0.1)


@pytest.mark.parametrize("moment", ["between two", "during the last"])
def test_a_kind_that_comes_when_another_is_just_idle_has_no_claim_on_the_past(moment: str) -> None:
    scheduler = make_scheduler(capacity=1000, images=1, tokens=5, max_lead=0.5)
    for _ in range(50):  # long served alone, one at a time
        scheduler.submit([text_item()], now=0.0)
        scheduler.complete(begin(scheduler), 1.0)
    if moment == "during the last":
        scheduler.submit([text_item()], now=0.0)
        last = begin(scheduler)
        scheduler.submit([image_item() for _ in range(50)], now=1.0)
        scheduler.complete(last, 1.0)
    else:
        scheduler.submit([image_item() for _ in range(50)], now=1.0)
    scheduler.complete(begin(scheduler, 1.0), 0.1)
    scheduler.submit([text_item(deadline=2.0)], now=1.1)
    kinds = []
    for _ in range(15):
        quantum = begin(scheduler, 1.1)
        scheduler.complete(quantum, 0.1)
        kinds.append(quantum.kind)
    assert WorkKind.TEXT in kinds, "an urgent item waits while the other kind catches up with the past"


@pytest.mark.parametrize("given_back", ["before", "after"])
def test_a_broken_engine_fails_what_is_between_two_quanta(given_back: str) -> None:
    scheduler = make_scheduler()
    futures = scheduler.submit([image_item(), image_item()], now=0.0)
    quantum = begin(scheduler)
    if given_back == "before":
        scheduler.suspend(quantum, 0.1)
        scheduler.fail_all(EngineStoppedError("gone"))
    else:
        scheduler.fail_all(EngineStoppedError("gone"))
        scheduler.suspend(quantum, 0.1)
    for future in futures:
        with pytest.raises(EngineStoppedError, match="gone"):
            future.result(timeout=0)
    assert scheduler.next_quantum(0.0) is None


def test_after_the_close_what_was_begun_goes_on() -> None:
    scheduler = make_scheduler()
    scheduler.submit([image_item()], now=0.0)
    quantum = begin(scheduler)
    scheduler.close()
    scheduler.suspend(quantum, 0.1)
    assert scheduler.next_quantum(0.0) is quantum
