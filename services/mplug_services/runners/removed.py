"""What answers for models that were taken out of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mplug_services.runners.runner import Alive, Deliver
from mplug_services.work import ModelRemovedError, WorkItem, WorkKind


class RemovedRunner:
    """Fails every item.

    Args:
        kind: of the items.
    """

    def __init__(self, kind: WorkKind) -> None:
        self.kind = kind

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """One quantum; see `Runner`."""
        for place, item in enumerate(items):
            deliver(place, ModelRemovedError(f"the model {item.model!r} was taken out of memory; try again"))
        yield from ()

    def warm_up(self) -> list[list[WorkItem]]:
        """Nothing."""
        return []
