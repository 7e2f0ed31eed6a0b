"""From bytes and texts to vectors: room in the queue, preparation, the model; an outcome for every item."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug.text.tokenizer import Tokens
from mplug_services.engine_seam import Engine
from mplug_services.prepare import PreparedImage, Preparer
from mplug_services.served_model import ServedModel
from mplug_services.work import DeadlineExceededError, EmbedImage, EmbedText, WorkItem, WorkResult

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


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Where the time went; None for a stage that did not run."""

    prepare: float | None = None
    queue: float | None = None
    """The longest wait of its items."""
    forward: float | None = None
    """All quanta that held its items."""
    index: float | None = None

    def join(self, other: StageSeconds) -> StageSeconds:
        """Both of two that ran at the same time: the longer of each stage."""
        return StageSeconds(
            _longer(self.prepare, other.prepare),
            _longer(self.queue, other.queue),
            _longer(self.forward, other.forward),
            _longer(self.index, other.index),
        )


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

    def __init__(self, model: ServedModel, engine: Engine, preparer: Preparer) -> None:
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
        async with _Room(self._engine, len(images)) as room:
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
        return EmbedBatch(outcomes, _stage_seconds(seconds, room.results))

    async def embed_texts(
        self, texts: Sequence[str], *, deadline: float | None = None, patience: float = EMBED_PATIENCE
    ) -> EmbedBatch:
        """Embed texts; arguments and errors as in `embed_images`."""
        if not texts:
            return EmbedBatch([], StageSeconds())
        async with _Room(self._engine, len(texts)) as room:
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
        return EmbedBatch(outcomes, _stage_seconds(seconds, room.results))


class _Room:
    """Room in the queue for a batch, from before its preparation until its results; given back if unused."""

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine = engine
        self._left = count
        self.results: list[WorkResult | Exception] = []

    async def __aenter__(self) -> _Room:
        self._engine.scheduler.reserve(self._left)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def run(self, items: Sequence[WorkItem]) -> list[WorkResult | Exception]:
        """Results of the items in order; DeadlineExceededError is raised, as it concerns the whole call."""
        futures = [asyncio.wrap_future(future) for future in self._engine.enqueue(items)]
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

    def _give_back(self) -> None:
        self._engine.scheduler.release(self._left)
        self._left = 0


class EmbedderSlot:
    """Where the embedder will be once the model is loaded and warm."""

    def __init__(self, not_ready: Callable[[], Exception]) -> None:
        self._embedder: Embedder | None = None
        self._not_ready = not_ready

    def fill(self, embedder: Embedder) -> None:
        """Put the embedder in service."""
        self._embedder = embedder

    def get(self) -> Embedder:
        """The embedder; raises what the caller is to be told while there is none."""
        if self._embedder is None:
            raise self._not_ready()
        return self._embedder

    @property
    def model(self) -> ServedModel | None:
        """The model in service, if any."""
        return None if self._embedder is None else self._embedder.model


def _image_outcome(prepared: PreparedImage | Exception, result: WorkResult | Exception) -> EmbedOutcome:
    if isinstance(result, Exception):
        return EmbedOutcome(error=result)
    thumbnail = prepared.thumbnail if isinstance(prepared, PreparedImage) else None
    return EmbedOutcome(vector=result.vector, thumbnail=thumbnail)


def _text_outcome(prepared: Tokens | Exception, result: WorkResult | Exception) -> EmbedOutcome:
    if isinstance(result, Exception):
        return EmbedOutcome(error=result)
    return EmbedOutcome(vector=result.vector, truncated=isinstance(prepared, Tokens) and prepared.truncated)


def _stage_seconds(prepare: float, results: Sequence[WorkResult | Exception]) -> StageSeconds:
    done = [result for result in results if isinstance(result, WorkResult)]
    if not done:
        return StageSeconds(prepare=prepare)
    quanta = {result.quantum: result.forward_seconds for result in done}
    return StageSeconds(
        prepare=prepare,
        queue=max(result.queue_seconds for result in done),
        forward=sum(quanta.values()),
    )


def _longer(left: float | None, right: float | None) -> float | None:
    given = [each for each in (left, right) if each is not None]
    return max(given) if given else None
