"""What a stream takes of a worker's reports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from mplug_services.room import Room
from mplug_services.scheduler import Scheduler
from mplug_services.work import STREAM_PAUSE, ResultFuture, WorkItem, WorkResult
from services.serving import make_scheduler, text_item

DONE = WorkResult(value="done", queue_seconds=0.0, forward_seconds=0.0, quantum=0)
Work = Callable[[ResultFuture], None]


class Queue:
    """As much of an engine as a room needs: work that a thread does at once.

    Args:
        work: reports, and then settles.
    """

    def __init__(self, work: Work) -> None:
        self.scheduler: Scheduler = make_scheduler()
        self._work = work

    def enqueue(
        self, items: Sequence[WorkItem], *, progress: Callable[[int, object], None] | None = None
    ) -> list[Future[WorkResult]]:
        futures = self.scheduler.enqueue(items, 0.0, progress=progress)
        threading.Thread(target=self._work, args=(futures[0],)).start()
        return futures


async def test_of_many_reports_the_newest_are_told_and_the_end_does_not_wait() -> None:
    def work(future: ResultFuture) -> None:
        for number in range(2000):
            future.report(number)
        future.settle(DONE)

    loop = asyncio.get_running_loop()
    started = loop.time()
    async with Room(Queue(work), 1) as room:
        *told, outcome = [each async for each in room.stream(text_item())]
    numbers = [each for each in told if isinstance(each, int)]
    assert numbers == told == sorted(set(numbers))
    assert len(told) <= (loop.time() - started) / STREAM_PAUSE + 1
    assert outcome is DONE


async def test_of_slow_reports_each_is_told() -> None:
    was_told = threading.Event()

    def work(future: ResultFuture) -> None:
        for number in range(4):
            future.report(number)
            assert was_told.wait(20)
            was_told.clear()
        future.settle(DONE)

    seen: list[object] = []
    async with Room(Queue(work), 1) as room:
        async for each in room.stream(text_item()):
            seen.append(each)
            was_told.set()
    assert seen == [0, 1, 2, 3, DONE]
