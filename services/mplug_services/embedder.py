"""From bytes and texts to vectors: room in the queue, preparation, the model; an outcome for every item."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug.text.tokenizer import Tokens
from mplug_services.engine_seam import WorkQueue
from mplug_services.prepare import PreparedImage, Preparer
from mplug_services.room import Room, StageSeconds, stage_seconds
from mplug_services.served_model import ServedModel
from mplug_services.slot import Slot
from mplug_services.work import EmbedImage, EmbedText, WorkResult

__all__ = ["EmbedBatch", "EmbedOutcome", "Embedder", "EmbedderSlot", "StageSeconds"]

SEARCH_PATIENCE = 0.5
"""Seconds: somebody waits for a search."""
EMBED_PATIENCE = 10.0
"""Seconds: a batch of embeddings."""
INGEST_PATIENCE = 30.0
"""Seconds: a stream that is bulk work by its nature."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbedOutcome:
    """What became of one item: a vector or an error."""

    vector: NDArray[np.float32] | None = None
    """float32 (E,), L2-normalised."""
    error: Exception | None = None
    truncated: bool = False
    """The text was longer than the model reads."""
    thumbnail: bytes | None = None
    """A JPEG, where one was asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbedBatch:
    """Outcomes in the order of the items."""

    outcomes: list[EmbedOutcome]
    seconds: StageSeconds


class Embedder:
    """What EmbeddingService and SearchService share.

    Args:
        model: the loaded model.
        engine: runs the work.
        preparer: decodes and tokenizes.
    """

    def __init__(self, model: ServedModel, engine: WorkQueue, preparer: Preparer) -> None:
        self.model = model
        self._engine = engine
        self._preparer = preparer

    async def embed_images(
        self,
        images: Sequence[bytes],
        *,
        deadline: float | None = None,
        patience: float = EMBED_PATIENCE,
        thumbnails: bool = False,
    ) -> EmbedBatch:
        """Embed encoded pictures.

        Args:
            images: the files' bytes.
            deadline: `time.monotonic()` after which nobody waits any more; None: no such time.
            patience: seconds in which it wants to be served (see `Scheduler`).
            thumbnails: make a JPEG of each picture, too.

        Raises:
            WorkError: the whole batch was refused, or its deadline passed. Cancellation takes its items out
                of the queue.
        """
        if not images:
            return EmbedBatch([], StageSeconds())
        async with Room(self._engine, len(images)) as room:
            started = time.monotonic()
            prepared = await self._preparer.images(images, self.model.image_size, thumbnails=thumbnails)
            seconds = time.monotonic() - started
            items = [
                EmbedImage(pixels=each.pixels, deadline=deadline, patience=patience)
                for each in prepared
                if isinstance(each, PreparedImage)
            ]
            results = iter(await room.run(items))
        outcomes = [
            _image_outcome(each, next(results) if isinstance(each, PreparedImage) else each)
            for each in prepared
        ]
        return EmbedBatch(outcomes, stage_seconds(seconds, room.results))

    async def embed_texts(
        self, texts: Sequence[str], *, deadline: float | None = None, patience: float = EMBED_PATIENCE
    ) -> EmbedBatch:
        """Embed texts; arguments and errors as in `embed_images`."""
        if not texts:
            return EmbedBatch([], StageSeconds())
        async with Room(self._engine, len(texts)) as room:
            started = time.monotonic()
            prepared = await self._preparer.texts(texts, self.model.tokenizer)
            seconds = time.monotonic() - started
            items = [
                EmbedText(ids=each.ids, deadline=deadline, patience=patience)
                for each in prepared
                if isinstance(each, Tokens)
            ]
            results = iter(await room.run(items))
        outcomes = [
            _text_outcome(each, next(results) if isinstance(each, Tokens) else each) for each in prepared
        ]
        return EmbedBatch(outcomes, stage_seconds(seconds, room.results))


class EmbedderSlot(Slot[Embedder]):
    """Where the embedder will be once the model is loaded and warm."""

    @property
    def model(self) -> ServedModel | None:
        """The model in service, if any."""
        return None if self.content is None else self.content.model


def _image_outcome(prepared: PreparedImage | Exception, result: WorkResult | Exception) -> EmbedOutcome:
    if isinstance(result, Exception):
        return EmbedOutcome(error=result)
    thumbnail = prepared.thumbnail if isinstance(prepared, PreparedImage) else None
    return EmbedOutcome(vector=result.vector, thumbnail=thumbnail)


def _text_outcome(prepared: Tokens | Exception, result: WorkResult | Exception) -> EmbedOutcome:
    if isinstance(result, Exception):
        return EmbedOutcome(error=result)
    return EmbedOutcome(vector=result.vector, truncated=isinstance(prepared, Tokens) and prepared.truncated)
