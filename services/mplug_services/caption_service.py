"""CaptionService: pictures to sentences, each with its own result."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc import aio

from mplug_api.v1 import caption_service_pb2 as pb
from mplug_api.v1 import generation_pb2
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceServicer
from mplug_services import wire
from mplug_services.config import ServeConfig
from mplug_services.errors import ServiceError, error_status, invalid_argument, to_failure
from mplug_services.generation_options import GenerationSettings, read_options
from mplug_services.generator import Generator, TextOutcome
from mplug_services.image_reader import ImageReader
from mplug_services.model_choice import ModelChoice
from mplug_services.wire_explanation import read_explain, write_heat_map
from mplug_services.wire_generation import write_progress, write_texts

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it


class CaptionService(CaptionServiceServicer):
    """The servicer.

    Args:
        models: where the captioner is.
        reader: reads pictures that are named by uri.
        config: limits.
    """

    def __init__(self, models: ModelChoice, reader: ImageReader, config: ServeConfig) -> None:
        self._models = models
        self._reader = reader
        self._config = config

    async def Caption(  # noqa: N802 - the method's name in the API
        self, request: pb.CaptionRequest, context: Context
    ) -> pb.CaptionResponse:
        """Describe pictures."""
        started = time.monotonic()
        generator = await self._models.captioner(request.model)
        settings = self._read_options(request.options, request.prompt, generator)
        wire.check_batch(len(request.images), "images", self._config.max_batch_size)
        limit = self._config.max_explained_items
        explain = read_explain(request, len(request.images), "images", generator.model, limit)
        results: dict[int, pb.CaptionResult] = {}
        pictures: dict[int, bytes] = {}
        for index, image in enumerate(request.images):
            try:
                pictures[index] = await self._reader.read(wire.read_image(image, f"images[{index}]"))
            except Exception as error:
                results[index] = _result(index, TextOutcome(error=error), settings)
        given, deadline = list(pictures.values()), wire.read_deadline(context)
        batch = await generator.caption(given, settings, prompt=request.prompt, deadline=deadline)
        if explain is not None:
            batch = await generator.explainer.explain(batch, given, explain, deadline=deadline)
        for index, outcome in zip(pictures, batch.outcomes, strict=True):
            results[index] = _result(index, outcome, settings)
        return pb.CaptionResponse(
            results=[results[index] for index in range(len(request.images))],
            model=wire.write_model(generator.model),
            timings=wire.write_timings(batch.seconds, started),
        )

    async def StreamCaption(  # noqa: N802
        self, request: pb.StreamCaptionRequest, context: Context
    ) -> AsyncIterator[pb.StreamCaptionResponse]:
        """Describe one picture while its caption grows."""
        generator = await self._models.captioner(request.model)
        settings = self._read_options(request.options, request.prompt, generator)
        try:
            picture = await self._reader.read(wire.read_image(request.image, "image"))
        except Exception as error:
            raise ServiceError(to_failure(error, field="image")) from error
        model = wire.write_model(generator.model)
        steps = generator.stream_caption(
            picture, settings, prompt=request.prompt, deadline=wire.read_deadline(context)
        )
        async with aclosing(steps):
            async for step in steps:
                progress = write_progress(step, settings.shown_seed, "image")
                yield pb.StreamCaptionResponse(progress=progress, model=model)

    def _read_options(
        self, options: generation_pb2.GenerationOptions, prompt: str, generator: Generator
    ) -> GenerationSettings:
        size = len(prompt.encode())
        if size > self._config.max_text_bytes:
            raise invalid_argument(
                "prompt",
                f"{size} bytes; the limit is {self._config.max_text_bytes}",
                reason="PROMPT_TOO_LONG",
            )
        return read_options(options, generator.decoder, "options", max_sequences=self._config.max_sequences)


def _result(index: int, outcome: TextOutcome, settings: GenerationSettings) -> pb.CaptionResult:
    if outcome.error is not None:
        return pb.CaptionResult(index=index, error=error_status(outcome.error, field=f"images[{index}]"))
    return pb.CaptionResult(
        index=index,
        captions=write_texts(outcome, settings.shown_seed),
        heat_maps=map(write_heat_map, outcome.heat_maps),
    )
