"""Which model answers a request: the server's own of its task, or another by its name: trained by a job, or set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from mplug_services.embedder import Embedder, EmbedderSlot
from mplug_services.errors import failed_precondition
from mplug_services.generator import Generator
from mplug_services.judge import Judge
from mplug_services.named_models import NamedModels
from mplug_services.reranker import Reranker
from mplug_services.served_model import ServedModel
from mplug_services.slot import Slot
from mplug_services.writer import Writer

T = TypeVar("T")


class ModelChoice:
    """What every service asks for its model.

    The methods take the name that a request gives, empty or that of the server's own model for the server's own, and
    the path of its field. They raise what the caller is to be told: there is no such model, or it cannot do it, or it
    is not loaded yet.

    Args:
        own: by task, the server's own models, once they are loaded.
        named: the others.
        embedders: where the server's own embedder is.
        captioners: likewise.
        answerers: likewise.
        rerankers: likewise.
        writers: likewise.
        classifiers: likewise.
        fillers: likewise.
    """

    def __init__(
        self,
        own: Mapping[str, ServedModel],
        named: NamedModels,
        *,
        embedders: EmbedderSlot,
        captioners: Slot[Generator],
        answerers: Slot[Generator],
        rerankers: Slot[Reranker],
        writers: Slot[Writer],
        classifiers: Slot[Judge],
        fillers: Slot[Judge],
    ) -> None:
        self._own = own
        self._named = named
        self._embedders = embedders
        self._captioners = captioners
        self._answerers = answerers
        self._rerankers = rerankers
        self._writers = writers
        self._classifiers = classifiers
        self._fillers = fillers

    async def embedder(self, name: str, field: str = "model") -> Embedder:
        """Makes vectors."""
        if self._is_own(name, "retrieval"):
            return self._embedders.get()
        users = await self._named.get(name, field)
        return _there(users.embedder, users.models, name, field, "makes no vectors")

    async def captioner(self, name: str, field: str = "model") -> Generator:
        """Describes pictures."""
        if self._is_own(name, "caption"):
            return self._captioners.get()
        users = await self._named.get(name, field)
        return _there(users.captioner, users.models, name, field, "writes no captions")

    async def answerer(self, name: str, field: str = "model") -> Generator:
        """Answers questions."""
        if self._is_own(name, "vqa"):
            return self._answerers.get()
        users = await self._named.get(name, field)
        return _there(users.answerer, users.models, name, field, "answers no questions")

    async def reranker(self, name: str, field: str = "model") -> Reranker:
        """Says how well pictures match a text."""
        if self._is_own(name, "rerank"):
            return self._rerankers.get()
        users = await self._named.get(name, field)
        return _there(users.reranker, users.models, name, field, "does not rerank")

    async def writer(self, name: str, field: str = "model") -> Writer:
        """Writes from texts."""
        if self._is_own(name, "text-generation"):
            return self._writers.get()
        users = await self._named.get(name, field)
        return _there(users.writer, users.models, name, field, "does not write from texts")

    async def classifier(self, name: str, field: str = "model") -> Judge:
        """Judges texts."""
        if self._is_own(name, "text-classification"):
            return self._classifiers.get()
        users = await self._named.get(name, field)
        return _there(users.classifier, users.models, name, field, "judges no texts")

    async def filler(self, name: str, field: str = "model") -> Judge:
        """Fills masks."""
        if self._is_own(name, "fill-mask"):
            return self._fillers.get()
        users = await self._named.get(name, field)
        return _there(users.filler, users.models, name, field, "fills no masks")

    def _is_own(self, name: str, task: str) -> bool:
        return not name or (task in self._own and self._own[task].name == name)


def _there(user: T | None, models: Mapping[str, ServedModel], name: str, field: str, lack: str) -> T:
    if user is None:
        message = f"{field}: the model {name!r} {lack}; it is for {', '.join(models)}"
        raise failed_precondition("MODEL_OF_OTHER_TASK", message)
    return user
