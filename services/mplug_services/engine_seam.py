"""The seam between the services and the engine: a thread behind it today, a process later; no torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from mplug_services.scheduler import Scheduler
from mplug_services.served_model import AttentionKernel, ServedModel
from mplug_services.work import WorkItem, WorkResult


class WorkQueue(Protocol):
    """Where work goes in."""

    @property
    def scheduler(self) -> Scheduler:
        """Says whether there is room."""
        ...

    def enqueue(
        self, items: Sequence[WorkItem], *, progress: Callable[[int, object], None] | None = None
    ) -> list[Future[WorkResult]]:
        """Queue items for which room was reserved with the scheduler; see `Scheduler.enqueue`."""
        ...


class Engine(WorkQueue, Protocol):
    """What `ModelWorker` offers."""

    ready: Future[Mapping[str, ServedModel]]
    """By task, once all are loaded and warm; or the error of the first that could not be."""
    kernels: Sequence[AttentionKernel]
    """What computes cross-attention where the models are; known once it is `ready`."""

    def start(self) -> None:
        """Start loading the models."""
        ...

    def add(self, name: str, load: Callable[[], Any]) -> Mapping[str, ServedModel]:
        """Put further models in service, by task; blocks. Any: models are the engine's own affair."""
        ...

    def remove(self, name: str) -> None:
        """Take added models out of service; items that wait for them fail with `ModelRemovedError`."""
        ...

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what was admitted and end; False when the time was too short."""
        ...


class AddedModels:
    """The queue of models that were added to an engine: as the engine's own, so that users of either are alike.

    Args:
        engine: whose models they are.
        name: under which they were added.
    """

    def __init__(self, engine: WorkQueue, name: str) -> None:
        self._engine = engine
        self._name = name

    @property
    def scheduler(self) -> Scheduler:
        """One for all models: they share the device."""
        return self._engine.scheduler

    def enqueue(
        self, items: Sequence[WorkItem], *, progress: Callable[[int, object], None] | None = None
    ) -> list[Future[WorkResult]]:
        """As the engine's, for these models."""
        return self._engine.enqueue([replace(item, model=self._name) for item in items], progress=progress)
