"""The jobs of a server: queued, run a few at a time, watched and cancelled. Its methods belong to the event loop."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_services.blocking import BlockingPool
from mplug_services.errors import failed_precondition, to_failure, unavailable
from mplug_services.jobs.records import JobRecord, JobState
from mplug_services.jobs.store import JobStore
from mplug_services.jobs.train_run import TrainRun
from mplug_services.named_models import NamedModel, NamedModels
from mplug_services.work import QueueFullError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""Hint of a full queue where no run says how long it will take, …"""
MAX_RETRY_SECONDS = 3600.0
"""… and the longest one."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How many jobs there may be."""

    running: int
    """At a time."""
    queued: int
    """That wait or are on their way."""


class JobManager:
    """What JobService offers.

    Args:
        store: the jobs; those that are queued are gone on with once `start` is called.
        pool: where blocking calls run.
        models: those that jobs have trained are registered there.
        limits: how many.
        draining: set when the server is about to stop.
    """

    def __init__(
        self,
        store: JobStore,
        pool: BlockingPool,
        models: NamedModels,
        limits: JobLimits,
        draining: asyncio.Event,
    ) -> None:
        self._store = store
        self._pool = pool
        self._models = models
        self._limits = limits
        self._draining = draining
        self._on_the_way = 0
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._watchers: dict[str, set[asyncio.Event]] = {}
        for record in store.all():
            if record.state is JobState.QUEUED:
                self._queue.put_nowait(record.id)
            if record.result is not None:
                folder = store.folder(record.id) / record.result.folder
                models.register(record.spec.model, NamedModel(folder, record.result.tasks))

    def start(self, run: TrainRun) -> None:
        """Begin with what waits; once.

        Args:
            run: runs training jobs.
        """
        assert not self._workers, "it is started once"
        self._workers = [asyncio.create_task(self._work(run)) for _ in range(self._limits.running)]

    async def stop(self) -> None:
        """End the processes; their jobs are gone on with when a server opens the same folder."""
        tasks = [*self._workers, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for a job on its way.

        Raises:
            QueueFullError: there is none.
        """
        waiting = sum(record.state is JobState.QUEUED for record in self._store.all())
        if waiting + self._on_the_way >= self._limits.queued:
            raise QueueFullError(f"{self._limits.queued} jobs wait already", self._retry_seconds())
        self._on_the_way += 1
        try:
            yield
        finally:
            self._on_the_way -= 1

    def _retry_seconds(self) -> float:
        runs = [self._store.get(id).progress for id in self._tasks]
        remaining = min((run.remaining_seconds for run in runs if run is not None), default=RETRY_SECONDS)
        return min(MAX_RETRY_SECONDS, max(1.0, remaining))

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[Path]:
        """A folder for a job on its way: `add` takes it over, else it is gone at the end of the block."""
        folder = await self._pool.run(self._store.make_incoming)
        try:
            yield folder
        finally:
            await self._pool.run_patiently(shutil.rmtree, folder, ignore_errors=True)

    async def add(self, record: JobRecord, folder: Path) -> JobRecord:
        """Take a job in; arguments, result and errors as in `JobStore.add`."""
        adding = asyncio.create_task(self._add(record, folder))
        try:
            return await asyncio.shield(adding)
        except asyncio.CancelledError:
            # What has begun ends: the folder is not deleted under it, and a job that is in is begun.
            await asyncio.wait([adding])
            raise

    async def _add(self, record: JobRecord, folder: Path) -> JobRecord:
        added = await self._pool.run_patiently(self._store.add, record, folder)
        if added.id == record.id:
            self._queue.put_nowait(added.id)
        return added

    async def cancel(self, id: str) -> JobRecord:
        """End a job.

        Raises:
            ServiceError: there is none of this id, or it has ended otherwise.
        """
        self._store.get(id)
        record = await self._change(id, state=JobState.CANCELLED, end_time=time.time())
        if record.state is not JobState.CANCELLED:
            raise failed_precondition("JOB_ENDED", f"the job {id} has {record.state} already")
        task = self._tasks.get(id)
        if task is None:
            await self._pool.run_patiently(self._store.clean, id)
        else:
            task.cancel()
            await asyncio.wait([task])
        return record

    async def watch(self, id: str) -> AsyncGenerator[JobRecord, None]:
        """A job as it is, then again whenever it has changed, until it has ended.

        Raises:
            ServiceError: there is none of this id; the server is about to stop.
        """
        changed = asyncio.Event()
        self._watchers.setdefault(id, set()).add(changed)
        try:
            while True:
                changed.clear()
                record = self._store.get(id)
                yield record
                if record.state.ended:
                    return
                await self._wait(changed)
        finally:
            self._watchers[id].discard(changed)
            if not self._watchers[id]:
                del self._watchers[id]

    async def _wait(self, changed: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (changed, self._draining)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._draining.is_set():
            raise unavailable("DRAINING", "the server is stopping; watch the next one", retry_seconds=1.0)

    def changed(self, id: str) -> None:
        """Wake who watches a job."""
        for event in self._watchers.get(id, ()):
            event.set()

    # Any: fields of JobRecord.
    async def _change(self, id: str, **changes: Any) -> JobRecord:
        record = await self._pool.run_patiently(self._store.change, id, **changes)
        logger.info("job %s, %s: %s", id, record.spec.recipe, record.state)
        self.changed(id)
        return record

    async def _work(self, run: TrainRun) -> None:
        while True:
            id = await self._queue.get()
            if self._store.get(id).state is not JobState.QUEUED:
                continue
            self._tasks[id] = task = asyncio.create_task(self._run(id, run))
            await asyncio.wait([task])
            del self._tasks[id]
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("job %s could not be written down; it waits for a restart", id, exc_info=error)

    async def _run(self, id: str, run: TrainRun) -> None:
        try:
            record = await self._change(id, state=JobState.RUNNING, start_time=time.time())
            if not record.state.ended:
                result = await run.run(record)
                await self._change(id, state=JobState.SUCCEEDED, result=result, end_time=time.time())
        except Exception as error:
            await self._change(id, state=JobState.FAILED, error=to_failure(error), end_time=time.time())
        finally:
            record = self._store.get(id)
            if not record.claims_model:
                self._models.forget(record.spec.model)
            if record.state.ended:
                await self._pool.run_patiently(self._store.clean, id)
