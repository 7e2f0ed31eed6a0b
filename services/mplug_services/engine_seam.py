"""The seam between the services and the engine: a thread behind it today, a process later; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from mplug_services.scheduler import Scheduler
from mplug_services.served_model import ServedModel
from mplug_services.work import WorkItem, WorkResult


class Engine(Protocol):
    """What `ModelWorker` offers."""

    scheduler: Scheduler
    ready: Future[ServedModel]

    def start(self) -> None:
        """Start loading the model."""
        ...

    def enqueue(self, items: Sequence[WorkItem]) -> list[Future[WorkResult]]:
        """Queue items for which room was reserved with the scheduler."""
        ...

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what was admitted and end; False when the time was too short."""
        ...
