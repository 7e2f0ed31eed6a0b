"""The seam between the services and the engine: a thread behind it today, a process later; no torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from mplug_services.scheduler import Scheduler
from mplug_services.served_model import ServedModel
from mplug_services.work import WorkItem, WorkResult


class Engine(Protocol):
    """What `ModelWorker` offers."""

    scheduler: Scheduler
    ready: Future[Mapping[str, ServedModel]]
    """By task, once all are loaded and warm; or the error of the first that could not be."""

    def start(self) -> None:
        """Start loading the models."""
        ...

    def enqueue(
        self, items: Sequence[WorkItem], *, progress: Callable[[int, object], None] | None = None
    ) -> list[Future[WorkResult]]:
        """Queue items for which room was reserved with the scheduler; see `Scheduler.enqueue`."""
        ...

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what was admitted and end; False when the time was too short."""
        ...
