"""A batch's way through the queue, and where its time went."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from mplug_services.engine_seam import WorkQueue
from mplug_services.work import (
    STREAM_PAUSE,
    DeadlineExceededError,
    QueueFullError,
    WorkItem,
    WorkResult,
)


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Where the time went; None for a stage that did not run."""

    prepare: float | None = None
    queue: float | None = None
    """The longest wait of its items."""
    forward: float | None = None
    """All quanta that held its items."""
    index: float | None = None

    def then(self, other: StageSeconds) -> StageSeconds:
        """Both of two that ran one after the other: each stage added up."""
        return StageSeconds(
            _added(self.prepare, other.prepare),
            _added(self.queue, other.queue),
            _added(self.forward, other.forward),
            _added(self.index, other.index),
        )

    def join(self, other: StageSeconds) -> StageSeconds:
        """Both of two that ran at the same time: the longer of each stage."""
        return StageSeconds(
            _longer(self.prepare, other.prepare),
            _longer(self.queue, other.queue),
            _longer(self.forward, other.forward),
            _longer(self.index, other.index),
        )


class Room:
    """Room in the queue for a batch, from before its preparation until its results; given back if unused.

    Args:
        engine: whose queue it is.
        count: items.
    """

    def __init__(self, engine: WorkQueue, count: int) -> None:
        self._engine = engine
        self._left = count
        self.results: list[WorkResult | Exception] = []

    async def __aenter__(self) -> Room:
        self._engine.scheduler.reserve(self._left)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def run(
        self, items: Sequence[WorkItem], *, progress: Callable[[int, object], None] | None = None
    ) -> list[WorkResult | Exception]:
        """Results of the items in order; DeadlineExceededError is raised, as it concerns the whole call.

        Cancellation takes the items out of the queue, or ends them after the quantum that they are in.

        Args:
            items: no more than there is room for.
            progress: called in the engine's thread with an item's number and what its runner reports; quick.
        """
        submitted = self._engine.enqueue(items, progress=progress)
        futures = [asyncio.wrap_future(future) for future in submitted]
        self._left -= len(items)
        self._give_back()
        # A list of outcomes, not the first exception: gather leaves the others running when one fails.
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                if isinstance(outcome, DeadlineExceededError):
                    raise outcome
                self.results.append(outcome)
            elif isinstance(outcome, WorkResult):
                self.results.append(outcome)
            else:
                raise outcome
        return self.results

    async def stream(self, item: WorkItem) -> AsyncGenerator[object, None]:
        """What the item's runner reports, and at last a `WorkResult` or an `Exception`; errors as in `run`.

        A report takes the place of one that has not been yielded yet, and between two are `STREAM_PAUSE` seconds: a
        small model writes tokens faster than anybody reads them, and a message for each would cost more than the token.
        Closing the iterator ends the work.
        """
        newest = _Newest(asyncio.get_running_loop())
        running = asyncio.create_task(self.run([item], progress=lambda _, value: newest.put(value)))
        running.add_done_callback(lambda _: newest.wake())
        try:
            while not running.done():
                await newest.wait()
                for value in newest.take():
                    yield value
                    await asyncio.wait({running}, timeout=STREAM_PAUSE)
            (outcome,) = await running
            yield outcome
        finally:
            running.cancel()

    def _give_back(self) -> None:
        self._engine.scheduler.release(self._left)
        self._left = 0


class _Newest:
    """The newest of what a worker's thread reports, for a loop that is woken once for all that it has not taken.

    Args:
        loop: which takes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reported = asyncio.Event()
        self._values: deque[object] = deque(maxlen=1)
        self._is_told = False

    def put(self, value: object) -> None:
        """In the worker's thread."""
        self._values.append(value)
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                self._loop.call_soon_threadsafe(self._reported.set)

    def wake(self) -> None:
        """End `wait`; in the loop's thread, as what follows."""
        self._reported.set()

    async def wait(self) -> None:
        """Until something was reported, or `wake`."""
        await self._reported.wait()
        self._reported.clear()

    def take(self) -> list[object]:
        """What was reported last, if it was not taken before."""
        self._is_told = False  # first: whoever reports from here on wakes the loop again
        try:
            return [self._values.pop()]
        except IndexError:
            return []


async def run_when_room(engine: WorkQueue, item: WorkItem) -> WorkResult:
    """One item's result, as soon as the queue has room for it; for work of a call that was let in already.

    Raises:
        WorkError: its deadline passed, or the engine stopped.
        Exception: the item's own error.
    """
    while True:
        try:
            async with Room(engine, 1) as room:
                (result,) = await room.run([item])
            break
        except QueueFullError as error:
            await asyncio.sleep(error.retry_after)
    if isinstance(result, Exception):
        raise result
    return result


def stage_seconds(prepare: float, results: Sequence[WorkResult | Exception]) -> StageSeconds:
    """Seconds of a batch, from those of its preparation and from its results."""
    done = [result for result in results if isinstance(result, WorkResult)]
    if not done:
        return StageSeconds(prepare=prepare)
    quanta: dict[int, float] = {}
    for result in done:
        quanta[result.quantum] = max(result.forward_seconds, quanta.get(result.quantum, 0.0))
    return StageSeconds(
        prepare=prepare,
        queue=max(result.queue_seconds for result in done),
        forward=sum(quanta.values()),
    )


def _added(left: float | None, right: float | None) -> float | None:
    given = [each for each in (left, right) if each is not None]
    return sum(given) if given else None


def _longer(left: float | None, right: float | None) -> float | None:
    given = [each for each in (left, right) if each is not None]
    return max(given) if given else None
