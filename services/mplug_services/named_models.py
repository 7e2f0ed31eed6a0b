"""Models that requests name, those that jobs have trained among them: in memory while they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug_services.config import TEXT_TASKS, ConfigurationError, ModelSource
from mplug_services.embedder import Embedder
from mplug_services.engine_seam import AddedModels, Engine, WorkQueue
from mplug_services.errors import not_found
from mplug_services.generator import Generator
from mplug_services.judge import Judge
from mplug_services.reranker import Reranker
from mplug_services.served_model import ServedModel
from mplug_services.writer import Writer


@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """What the services ask, of the models of one name."""

    models: Mapping[str, ServedModel]
    """By task."""
    embedder: Embedder | None = None
    captioner: Generator | None = None
    answerer: Generator | None = None
    reranker: Reranker | None = None
    writer: Writer | None = None
    classifier: Judge | None = None
    filler: Judge | None = None


MakeUsers = Callable[[Mapping[str, ServedModel], WorkQueue], Users]


@dataclass(frozen=True, slots=True)
class NamedModel:
    """Where a model is, and what it can do."""

    folder: Path
    tasks: tuple[str, ...]


class NamedModels:
    """The models by name; all methods belong to the event loop.

    Args:
        engine: runs them; None where this server runs no models.
        make_users: makes what the services ask.
        device: as for `mplug.load`.
        dtype: as for `mplug.load`.
        text_dtype: of generators and judges of texts; None: as all others'.
        most: models in memory; of more, the one longest not asked for leaves it.
    """

    def __init__(
        self,
        engine: Engine | None,
        make_users: MakeUsers,
        *,
        device: str,
        dtype: str,
        text_dtype: str | None = None,
        most: int,
    ) -> None:
        self._engine = engine
        self._make_users = make_users
        self._device = device
        self._dtype = dtype
        self._text_dtype = text_dtype
        self._most = most
        self._known: dict[str, NamedModel] = {}
        self._loads: dict[str, asyncio.Task[Users]] = {}
        """Loaded or on their way, the one asked for last at the end."""

    @property
    def in_memory(self) -> list[ServedModel]:
        """The models that are loaded, one for each of their tasks."""
        done = [load.result() for load in self._loads.values() if load.done() and _succeeded(load)]
        return [model for users in done for model in users.models.values()]

    def register(self, name: str, model: NamedModel) -> None:
        """Make a model known."""
        self._known[name] = model

    def forget(self, name: str) -> None:
        """The opposite of `register`: of a job that did not come to its end."""
        self._known.pop(name, None)
        if self._loads.pop(name, None) is not None and self._engine is not None:
            self._engine.remove(name)

    def find(self, name: str) -> Path | None:
        """The folder of a model; None: there is none of this name."""
        known = self._known.get(name)
        return None if known is None else known.folder

    async def get(self, name: str, field: str) -> Users:
        """What there is to ask of a model, which is loaded where it is not in memory.

        Args:
            name: of the model.
            field: path of the name in the request.

        Raises:
            ServiceError: NOT_FOUND, there is none of this name.
            MplugError: it cannot be loaded.
        """
        if name not in self._known:
            known = ", ".join([*self._known][:20]) or "none yet"
            message = f"{field}: this server has no model {name[:200]!r} besides its own; there are: {known}"
            raise not_found("MODEL_NOT_FOUND", message)
        load = self._loads.pop(name, None)
        if load is None or (load.done() and not _succeeded(load)):
            load = asyncio.create_task(self._load(name, self._known[name]))
        self._loads[name] = load
        self._make_room()
        # Who goes away does not take it from others that wait for it.
        return await asyncio.shield(load)

    async def _load(self, name: str, model: NamedModel) -> Users:
        assert self._engine is not None, "a server that knows models has an engine"
        served = await asyncio.to_thread(self._engine.add, name, self._loader(model))
        return self._make_users(served, AddedModels(self._engine, name))

    # Any: models are the engine's own affair.
    def _loader(self, model: NamedModel) -> Callable[[], Any]:
        from mplug_services.runners.models import model_loader  # a server of the index alone needs no torch

        place, texts = str(model.folder), self._text_dtype
        sources = {
            task: ModelSource(place, dtype=texts if task in TEXT_TASKS else None) for task in model.tasks
        }
        return model_loader(sources, self._device, self._dtype)

    def _make_room(self) -> None:
        over = len(self._loads) - self._most
        for name in [name for name, load in self._loads.items() if load.done()][: max(0, over)]:
            del self._loads[name]
            if self._engine is not None:
                self._engine.remove(name)


def _succeeded(load: asyncio.Task[Users]) -> bool:
    return not load.cancelled() and load.exception() is None


def open_places(places: Mapping[str, str], wanted: Sequence[str]) -> dict[str, NamedModel]:
    """Models by name, those left out that can do none of some tasks; blocks, and imports torch.

    Args:
        places: as for `mplug.load`, by name.
        wanted: tasks.

    Raises:
        ConfigurationError: one of them is no model.
    """
    from mplug.loading import find_folder

    found = {}
    for name, place in places.items():
        try:
            model = NamedModel(find_folder(place), loadable_tasks(place, wanted))
        except MplugError as error:
            raise ConfigurationError(f"more_models: {name}: {error}") from error
        if model.tasks:
            found[name] = model
    return found


def loadable_tasks(folder: str | Path, wanted: Sequence[str]) -> tuple[str, ...]:
    """Which of some tasks a folder's model can do; blocks, and imports torch.

    Raises:
        CheckpointError: nothing loadable there.
    """
    from mplug.loading import survey
    from mplug.tasks import TaskSize
    from mplug_services.runners.text_models import JUDGES, JUDGING_TASKS

    can = {task for task, size in survey(folder).items() if isinstance(size, TaskSize)}
    if can & {*JUDGING_TASKS}:
        can.add(JUDGES)
    return tuple(task for task in wanted if task in can)
