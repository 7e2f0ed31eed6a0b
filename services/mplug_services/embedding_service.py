"""EmbeddingService: pictures and texts to vectors, each with its own result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from grpc import aio

from mplug_api.v1 import embedding_service_pb2 as pb
from mplug_api.v1.embedding_service_pb2_grpc import EmbeddingServiceServicer
from mplug_services import wire
from mplug_services.config import ServeConfig
from mplug_services.embedder import EmbedOutcome
from mplug_services.errors import error_status
from mplug_services.image_reader import ImageReader
from mplug_services.model_choice import ModelChoice

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it


class EmbeddingService(EmbeddingServiceServicer):
    """The servicer.

    Args:
        models: where the embedder is.
        reader: reads pictures that are named by uri.
        config: limits.
    """

    def __init__(self, models: ModelChoice, reader: ImageReader, config: ServeConfig) -> None:
        self._models = models
        self._reader = reader
        self._config = config

    async def EmbedImages(  # noqa: N802 - the method's name in the API
        self, request: pb.EmbedImagesRequest, context: Context
    ) -> pb.EmbedImagesResponse:
        """Embed pictures."""
        started = time.monotonic()
        embedder = await self._models.embedder(request.model)
        dtype = wire.read_dtype(request.dtype, "dtype")
        wire.check_batch(len(request.images), "images", self._config.max_batch_size)
        results: list[pb.EmbedResult | None] = [None] * len(request.images)
        pictures: dict[int, bytes] = {}
        for index, image in enumerate(request.images):
            try:
                pictures[index] = await self._reader.read(wire.read_image(image, f"images[{index}]"))
            except Exception as error:
                results[index] = _failed(index, "images", error)
        batch = await embedder.embed_images(list(pictures.values()), deadline=wire.read_deadline(context))
        for index, outcome in zip(pictures, batch.outcomes, strict=True):
            results[index] = _result(index, "images", outcome, dtype)
        return pb.EmbedImagesResponse(
            results=_complete(results),
            model=wire.write_model(embedder.model),
            timings=wire.write_timings(batch.seconds, started),
        )

    async def EmbedTexts(  # noqa: N802 - the method's name in the API
        self, request: pb.EmbedTextsRequest, context: Context
    ) -> pb.EmbedTextsResponse:
        """Embed texts."""
        started = time.monotonic()
        embedder = await self._models.embedder(request.model)
        dtype = wire.read_dtype(request.dtype, "dtype")
        wire.check_batch(len(request.texts), "texts", self._config.max_batch_size)
        results: list[pb.EmbedResult | None] = [None] * len(request.texts)
        texts: dict[int, str] = {}
        for index, text in enumerate(request.texts):
            try:
                wire.check_text(text, f"texts[{index}]", self._config.max_text_bytes)
                texts[index] = text
            except Exception as error:
                results[index] = _failed(index, "texts", error)
        batch = await embedder.embed_texts(list(texts.values()), deadline=wire.read_deadline(context))
        for index, outcome in zip(texts, batch.outcomes, strict=True):
            results[index] = _result(index, "texts", outcome, dtype)
        return pb.EmbedTextsResponse(
            results=_complete(results),
            model=wire.write_model(embedder.model),
            timings=wire.write_timings(batch.seconds, started),
        )


def _result(index: int, field: str, outcome: EmbedOutcome, dtype: int) -> pb.EmbedResult:
    if outcome.vector is None:
        assert outcome.error is not None, "an outcome has a vector or an error"
        return _failed(index, field, outcome.error)
    embedding = pb.Embedding(vector=wire.write_vector(outcome.vector, dtype), truncated=outcome.truncated)
    return pb.EmbedResult(index=index, embedding=embedding)


def _failed(index: int, field: str, error: Exception) -> pb.EmbedResult:
    return pb.EmbedResult(index=index, error=error_status(error, field=f"{field}[{index}]"))


def _complete(results: Sequence[pb.EmbedResult | None]) -> list[pb.EmbedResult]:
    done = [result for result in results if result is not None]
    assert len(done) == len(results), "every item has a result"
    return done
