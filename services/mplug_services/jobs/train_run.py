"""One training job, from its order to the model in service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mplug_services.blocking import BlockingPool
from mplug_services.errors import Failure, ServiceError, StatusCode
from mplug_services.jobs.log_tail import LogTail
from mplug_services.jobs.process import JobProcess
from mplug_services.jobs.recipes import FindModel, Order
from mplug_services.jobs.records import JobRecord, TrainProgress, TrainResult, TrainSpec
from mplug_services.jobs.roots import JobRoots
from mplug_services.jobs.store import JobStore
from mplug_services.jobs.training import give_order, read_result
from mplug_services.named_models import NamedModel, NamedModels, loadable_tasks

LOOK_SECONDS = 0.5
"""Between two looks at a log: what a watcher sees is as old at most."""


class TrainRun:
    """Runs training jobs.

    Args:
        store: the jobs.
        pool: where blocking calls run.
        roots: what jobs may read.
        models: take what comes out.
        find_model: knows what a job may start from.
        changed: called with a job's id when more is known of it.
    """

    def __init__(
        self,
        store: JobStore,
        pool: BlockingPool,
        roots: JobRoots,
        models: NamedModels,
        find_model: FindModel,
        changed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._pool = pool
        self._roots = roots
        self._models = models
        self._find_model = find_model
        self._changed = changed

    async def run(self, record: JobRecord) -> TrainResult:
        """Train, or go on; the model is in service when it returns.

        Cancellation ends the process; what it had done by its last checkpoint stays.

        Raises:
            ServiceError: what the client is told of a run that failed.
        """
        folder, call = self._store.folder(record.id), self._pool.run_patiently
        order = await call(give_order, folder, record.spec, self._roots, self._find_model)
        code = await self._train(record.id)
        hidden = [*_paths(order, record.spec), *self._roots.names()]
        result = await call(read_result, folder, code, hidden)
        tasks = await call(loadable_tasks, folder / result["folder"], order.served_tasks)
        if not tasks:
            message = f"the model can do none of {', '.join(order.served_tasks)}"
            raise ServiceError(
                Failure(code=StatusCode.FAILED_PRECONDITION, reason="NOTHING_TO_SERVE", message=message)
            )
        self._models.register(record.spec.model, NamedModel(folder / result["folder"], tasks))
        await self._models.get(record.spec.model, "model")
        return TrainResult(folder=result["folder"], tasks=tasks, metrics=result["metrics"])

    async def _train(self, id: str) -> int:
        folder = self._store.folder(id)
        tail = LogTail(folder / "output" / "log.jsonl", folder / "steps")
        process = await JobProcess.start(folder)
        ended = asyncio.create_task(process.wait())
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=LOOK_SECONDS)
                await self._look(id, tail)
            return ended.result()
        finally:
            await process.kill()

    async def _look(self, id: str, tail: LogTail) -> None:
        progress: TrainProgress | None = await self._pool.run_patiently(tail.read)
        if progress is not None and progress != self._store.get(id).progress:
            await self._pool.run_patiently(self._store.note, id, progress)
            self._changed(id)


def _paths(order: Order, spec: TrainSpec) -> list[tuple[str, str]]:
    """Paths in the settings that the process was given, and the names that the client gave."""
    pairs = zip(order.overrides, spec.settings, strict=True)
    return [(path.partition("=")[2], name.partition("=")[2]) for path, name in pairs if path != name]
