"""A batch's way through the queue, and where its time went."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from mplug_services.engine_seam import WorkQueue
from mplug_services.work import DeadlineExceededError, QueueFullError, WorkItem, WorkResult


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

        Closing the iterator ends the work.
        """
        reported: asyncio.Queue[tuple[object] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def report(_: int, value: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(reported.put_nowait, (value,))

        running = asyncio.create_task(self.run([item], progress=report))
        running.add_done_callback(lambda _: reported.put_nowait(None))
        try:
            while (value := await reported.get()) is not None:
                yield value[0]
            (outcome,) = await running
            yield outcome
        finally:
            running.cancel()

    def _give_back(self) -> None:
        self._engine.scheduler.release(self._left)
        self._left = 0


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
