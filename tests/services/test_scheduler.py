"""The queue: order, shares, budgets, admission."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from mplug_services.kind_queue import Quantum
from mplug_services.scheduler import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, Scheduler
from mplug_services.work import (
    BatchTooLargeError,
    DeadlineExceededError,
    EmbedImage,
    EmbedText,
    EngineStoppedError,
    QueueFullError,
    WorkItem,
    WorkKind,
    WorkResult,
)
from services.serving import image_item, make_scheduler, text_item


def take(scheduler: Scheduler, now: float = 0.0, seconds: float = 0.1) -> Quantum:
    """The next quantum, accounted as having taken `seconds`."""
    quantum = scheduler.next_quantum(now)
    assert quantum is not None
    scheduler.complete(quantum, seconds)
    return quantum


def numbers(quantum: Quantum, items: Sequence[WorkItem]) -> list[int]:
    return [next(i for i, item in enumerate(items) if item is entry.item) for entry in quantum.entries]


def test_nothing_waits() -> None:
    assert make_scheduler().next_quantum(0.0) is None


def test_items_without_deadline_go_in_the_order_they_came() -> None:
    scheduler = make_scheduler(images=2)
    items = [image_item() for _ in range(5)]
    for number, item in enumerate(items):
        scheduler.submit([item], now=float(number))
    assert [numbers(take(scheduler), items) for _ in range(3)] == [[0, 1], [2, 3], [4]]
    assert len(scheduler) == 0


def test_within_a_kind_the_earlier_deadline_goes_first() -> None:
    scheduler = make_scheduler(images=2)
    items = [image_item(deadline=deadline) for deadline in (9.0, 3.0, None, 5.0)]
    scheduler.submit(items, now=0.0)
    assert [numbers(take(scheduler), items) for _ in range(2)] == [[1, 3], [0, 2]]


def test_an_item_without_deadline_is_not_overtaken_for_ever() -> None:
    scheduler = make_scheduler(images=1)
    old = EmbedImage(pixels=image_item().pixels, patience=2.0)
    scheduler.submit([old], now=0.0)
    scheduler.submit([image_item(deadline=1.0), image_item(deadline=2.5)], now=0.5)
    taken = [take(scheduler, now=0.6).entries[0].item for _ in range(3)]
    assert taken[1] is old


def test_an_urgent_kind_goes_before_bulk_work_of_another() -> None:
    scheduler = make_scheduler(images=1)
    scheduler.submit([image_item() for _ in range(20)], now=0.0)
    assert take(scheduler).kind is WorkKind.IMAGE
    scheduler.submit([text_item(deadline=1.0)], now=0.1)
    assert take(scheduler, now=0.1).kind is WorkKind.TEXT


def test_a_kind_without_deadlines_is_served_beside_a_stream_of_urgent_ones() -> None:
    scheduler = make_scheduler(capacity=1000, images=1, tokens=5, max_lead=0.5)
    scheduler.submit([image_item() for _ in range(50)], now=0.0)
    scheduler.submit([text_item(deadline=100.0) for _ in range(100)], now=0.0)
    scheduler.submit([text_item(deadline=20.0) for _ in range(100)], now=0.0)
    kinds = [take(scheduler, now=0.0, seconds=0.1).kind for _ in range(60)]
    images = kinds.count(WorkKind.IMAGE)
    # Equal shares: half of the time, but for the lead of 0.5 s, five quanta.
    assert 26 <= images <= 31
    assert kinds[0] is WorkKind.TEXT


def test_shares_divide_the_measured_time() -> None:
    shares = {WorkKind.IMAGE: 3.0, WorkKind.TEXT: 1.0}
    scheduler = make_scheduler(capacity=1000, images=1, tokens=5, shares=shares, max_lead=0.1)
    scheduler.submit([image_item() for _ in range(400)], now=0.0)
    scheduler.submit([text_item() for _ in range(400)], now=0.0)
    seconds = {WorkKind.IMAGE: 0.0, WorkKind.TEXT: 0.0}
    for _ in range(200):
        cost = {WorkKind.IMAGE: 0.2, WorkKind.TEXT: 0.05}
        quantum = scheduler.next_quantum(0.0)
        assert quantum is not None
        scheduler.complete(quantum, cost[quantum.kind])
        seconds[quantum.kind] += cost[quantum.kind]
    assert seconds[WorkKind.IMAGE] / seconds[WorkKind.TEXT] == pytest.approx(3.0, rel=0.1)


def test_an_idle_kind_saves_up_no_claim() -> None:
    scheduler = make_scheduler(capacity=1000, images=1, tokens=5, max_lead=0.5)
    scheduler.submit([image_item() for _ in range(100)], now=0.0)
    for _ in range(50):
        take(scheduler, seconds=1.0)
    scheduler.submit([text_item() for _ in range(50)], now=1.0)
    kinds = [take(scheduler, now=1.0, seconds=1.0).kind for _ in range(10)]
    assert kinds.count(WorkKind.IMAGE) >= 4


@pytest.mark.parametrize(
    ("lengths", "quanta"),
    [
        ((8, 8, 8, 8), [4]),
        ((8, 8, 8, 8, 8), [4, 1]),
        ((2, 2, 2, 16), [3, 1]),  # with the long one all rows would be padded to 16
        ((16, 2, 2), [2, 1]),
        ((40, 2), [1, 1]),  # costs more than the budget: alone
        ((1,) * 32, [32]),
    ],
)
def test_a_quantum_of_texts_holds_padded_tokens_within_the_budget(
    lengths: tuple[int, ...], quanta: list[int]
) -> None:
    scheduler = make_scheduler(tokens=32)
    scheduler.submit([text_item(length) for length in lengths], now=0.0)
    sizes = []
    while (quantum := scheduler.next_quantum(0.0)) is not None:
        sizes.append(len(quantum.entries))
    assert sizes == quanta


def test_expired_items_never_run_and_say_why() -> None:
    scheduler = make_scheduler()
    late, early = scheduler.submit([image_item(deadline=5.0), image_item(deadline=1.0)], now=0.0)
    quantum = take(scheduler, now=1.0)
    assert [entry.future for entry in quantum.entries] == [late]
    with pytest.raises(DeadlineExceededError, match="deadline passed"):
        early.result(timeout=0)


def test_a_cancelled_item_gives_its_room_back_at_once() -> None:
    scheduler = make_scheduler(capacity=2)
    first, second = scheduler.submit([image_item(), image_item()], now=0.0)
    with pytest.raises(QueueFullError):
        scheduler.submit([image_item()], now=0.0)
    assert first.cancel()
    third = scheduler.submit([image_item()], now=0.0)[0]
    assert [entry.future for entry in take(scheduler).entries] == [second, third]


def test_what_runs_cannot_be_cancelled() -> None:
    scheduler = make_scheduler()
    future = scheduler.submit([image_item()], now=0.0)[0]
    take(scheduler)
    assert not future.cancel()


def test_a_batch_gets_all_its_room_or_none() -> None:
    scheduler = make_scheduler(capacity=4)
    scheduler.submit([image_item()], now=0.0)
    with pytest.raises(QueueFullError, match="queue of 4"):
        scheduler.submit([image_item() for _ in range(4)], now=0.0)
    assert len(scheduler) == 1
    scheduler.submit([image_item() for _ in range(3)], now=0.0)
    with pytest.raises(QueueFullError):
        scheduler.submit([image_item()], now=0.0)


def test_a_batch_larger_than_the_queue_is_refused_for_good() -> None:
    with pytest.raises(BatchTooLargeError, match="5 items and the queue holds 4; split it"):
        make_scheduler(capacity=4).submit([image_item() for _ in range(5)], now=0.0)


def test_the_retry_hint_follows_the_measured_rate() -> None:
    scheduler = make_scheduler(capacity=4, images=4)
    scheduler.submit([image_item() for _ in range(4)], now=0.0)
    with pytest.raises(QueueFullError) as unmeasured:
        scheduler.reserve(2)
    take(scheduler, seconds=2.0)
    scheduler.submit([image_item() for _ in range(4)], now=0.0)
    with pytest.raises(QueueFullError) as measured:
        scheduler.reserve(2)
    take(scheduler, seconds=4000.0)
    scheduler.submit([image_item() for _ in range(4)], now=0.0)
    with pytest.raises(QueueFullError) as slow:
        scheduler.reserve(1)
    hints = [each.value.retry_after for each in (unmeasured, measured, slow)]
    assert hints == [FIRST_RETRY_SECONDS, pytest.approx(2 * 0.5), MAX_RETRY_SECONDS]


def test_reserved_room_counts_until_it_is_used_or_released() -> None:
    scheduler = make_scheduler(capacity=3)
    scheduler.reserve(3)
    with pytest.raises(QueueFullError):
        scheduler.reserve(1)
    scheduler.release(1)
    scheduler.enqueue([image_item(), image_item()], now=0.0)
    assert (len(scheduler), scheduler.occupied) == (2, 2)


def test_after_the_close_only_what_was_admitted_runs() -> None:
    scheduler = make_scheduler()
    scheduler.reserve(1)
    scheduler.close()
    with pytest.raises(EngineStoppedError, match="shutting down"):
        scheduler.reserve(1)
    future = scheduler.enqueue([image_item()], now=0.0)[0]
    assert take(scheduler).entries[0].future is future


def test_a_broken_engine_fails_what_waits_and_what_comes() -> None:
    scheduler = make_scheduler()
    waiting = scheduler.submit([image_item()], now=0.0)
    scheduler.reserve(1)
    scheduler.fail_all(EngineStoppedError("gone"))
    later = scheduler.enqueue([image_item()], now=0.0)
    for future in (*waiting, *later):
        with pytest.raises(EngineStoppedError, match="gone"):
            future.result(timeout=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"images": 0}, r"budgets\[image\] is 0"),
        ({"shares": {WorkKind.TEXT: 0.0}}, r"shares\[text\] is 0.0"),
        ({"max_lead": 0.0}, "max_lead is 0.0"),
    ],
)
def test_impossible_arguments_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scheduler(**arguments)


@pytest.mark.parametrize("item", [image_item(7, deadline=3.5), text_item(4)])
def test_items_pickle(item: EmbedImage | EmbedText) -> None:
    again = pickle.loads(pickle.dumps(item))
    assert (again.kind, again.cost, again.deadline) == (item.kind, item.cost, item.deadline)
    error = pickle.loads(pickle.dumps(QueueFullError("full", 2.5)))
    assert (str(error), error.retry_after) == ("full", 2.5)


def test_a_bare_work_item_is_no_work() -> None:
    with pytest.raises(TypeError, match="use one of its subclasses"):
        _ = WorkItem().kind
    with pytest.raises(TypeError, match="use one of its subclasses"):
        _ = WorkItem().cost


def test_results_arrive_through_the_future() -> None:
    scheduler = make_scheduler()
    future: Future[WorkResult] = scheduler.submit([image_item()], now=0.0)[0]
    quantum = take(scheduler)
    result = WorkResult(image_item().pixels[0].astype("float32"), 0.0, 0.1, 1)
    quantum.entries[0].future.set_result(result)
    assert future.result(timeout=0) is result
