"""TextService: texts to what is written of them, to labels, spans and missing words, each with its own result."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from grpc import aio

from mplug.errors import MplugError
from mplug.text_classifier import Classified, Filled, Tagged
from mplug_api.v1 import text_service_pb2 as pb
from mplug_api.v1.text_service_pb2_grpc import TextServiceServicer
from mplug_services import wire
from mplug_services.config import ServeConfig
from mplug_services.errors import error_status, invalid_argument
from mplug_services.generation_options import read_options
from mplug_services.generator import TextOutcome
from mplug_services.judge import JudgeOutcome
from mplug_services.model_choice import ModelChoice
from mplug_services.wire_generation import write_progress, write_texts
from mplug_services.wire_text import (
    read_fill,
    read_item,
    read_masked,
    read_mode,
    read_stop,
    write_filled,
    write_labels,
    write_spans,
)
from mplug_services.writer import Order, Writer

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it

InT = TypeVar("InT")
OutT = TypeVar("OutT")


class TextService(TextServiceServicer):
    """The servicer.

    Args:
        models: where the models are.
        config: limits.
    """

    def __init__(self, models: ModelChoice, config: ServeConfig) -> None:
        self._models = models
        self._config = config

    async def Generate(  # noqa: N802 - the method's name in the API
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.GenerateResponse:
        """Write from texts."""
        started = time.monotonic()
        writer = await self._models.writer(request.model)
        order = self._read_order(request, writer)
        wire.check_batch(len(request.texts), "texts", self._config.max_batch_size)
        texts, refused = _each(request.texts, self._read_text, "texts")
        batch = await writer.write(list(texts.values()), order, deadline=wire.read_deadline(context))
        outcomes = {index: TextOutcome(error=error) for index, error in refused.items()}
        outcomes |= dict(zip(texts, batch.outcomes, strict=True))
        seed = order.settings.shown_seed
        return pb.GenerateResponse(
            results=[_generate_result(index, outcomes[index], seed) for index in range(len(request.texts))],
            model=wire.write_model(writer.model),
            timings=wire.write_timings(batch.seconds, started),
            truncated_texts=sorted(index for index, outcome in outcomes.items() if outcome.truncated),
        )

    async def StreamGenerate(  # noqa: N802
        self, request: pb.StreamGenerateRequest, context: Context
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Write from one text while somebody reads along."""
        writer = await self._models.writer(request.model)
        order = self._read_order(request, writer)
        text = self._read_text(request.text, "text")
        model = wire.write_model(writer.model)
        async with aclosing(writer.stream(text, order, deadline=wire.read_deadline(context))) as steps:
            async for step in steps:
                truncated = isinstance(step, TextOutcome) and step.truncated
                progress = write_progress(step, order.settings.shown_seed, "text")
                yield pb.StreamGenerateResponse(progress=progress, model=model, truncated=truncated)

    async def Classify(  # noqa: N802
        self, request: pb.ClassifyRequest, context: Context
    ) -> pb.ClassifyResponse:
        """Judge texts or pairs of texts."""
        started = time.monotonic()
        judge = await self._models.classifier(request.model)
        max_bytes = self._config.max_text_bytes
        mode = read_mode(request, judge.model.modes, self._config.max_labels, max_bytes)
        wire.check_batch(len(request.items), "items", self._config.max_batch_size)
        texts, refused = _each(
            request.items, lambda item, field: read_item(item, mode, field, max_bytes), "items"
        )
        batch = await judge.judge(list(texts.values()), mode, deadline=wire.read_deadline(context))
        outcomes = {index: JudgeOutcome(error=error) for index, error in refused.items()}
        outcomes |= dict(zip(texts, batch.outcomes, strict=True))
        return pb.ClassifyResponse(
            results=[_classify_result(index, outcomes[index]) for index in range(len(request.items))],
            model=wire.write_model(judge.model),
            timings=wire.write_timings(batch.seconds, started),
            truncated_items=_truncated(outcomes),
        )

    async def FillMask(  # noqa: N802
        self, request: pb.FillMaskRequest, context: Context
    ) -> pb.FillMaskResponse:
        """Fill the masks of texts."""
        started = time.monotonic()
        judge = await self._models.filler(request.model)
        mode = read_fill(request, self._config.max_top_k)
        wire.check_batch(len(request.texts), "texts", self._config.max_batch_size)
        texts, refused = _each(
            request.texts, lambda text, field: read_masked(text, field, self._config.max_text_bytes), "texts"
        )
        batch = await judge.judge(list(texts.values()), mode, deadline=wire.read_deadline(context))
        outcomes = {index: JudgeOutcome(error=error) for index, error in refused.items()}
        outcomes |= dict(zip(texts, batch.outcomes, strict=True))
        return pb.FillMaskResponse(
            results=[_fill_result(index, outcomes[index]) for index in range(len(request.texts))],
            model=wire.write_model(judge.model),
            timings=wire.write_timings(batch.seconds, started),
            truncated_texts=_truncated(outcomes),
        )

    def _read_order(self, request: pb.GenerateRequest | pb.StreamGenerateRequest, writer: Writer) -> Order:
        limit = self._config.max_sequences
        settings = read_options(request.options, writer.facts, "options", max_sequences=limit)
        return Order(settings, read_stop(request.stop, self._config.max_text_bytes), request.log_probs)

    def _read_text(self, text: str, field: str) -> str:
        wire.check_text(text, field, self._config.max_text_bytes)
        return text


def _each(
    items: Sequence[InT], read: Callable[[InT, str], OutT], field: str
) -> tuple[dict[int, OutT], dict[int, Exception]]:
    """Items by their positions as they were read, and errors of those that cannot be."""
    values: dict[int, OutT] = {}
    errors: dict[int, Exception] = {}
    for index, item in enumerate(items):
        try:
            values[index] = read(item, f"{field}[{index}]")
        except Exception as error:
            errors[index] = error
    return values, errors


def _generate_result(index: int, outcome: TextOutcome, seed: int | None) -> pb.GenerateResult:
    if outcome.error is not None:
        return pb.GenerateResult(index=index, error=error_status(outcome.error, field=f"texts[{index}]"))
    return pb.GenerateResult(index=index, texts=write_texts(outcome, seed))


def _classify_result(index: int, outcome: JudgeOutcome) -> pb.ClassifyResult:
    if isinstance(outcome.found, Classified):
        return pb.ClassifyResult(index=index, labels=write_labels(outcome.found))
    if isinstance(outcome.found, Tagged):
        return pb.ClassifyResult(index=index, spans=write_spans(outcome.found))
    assert outcome.error is not None, outcome
    return pb.ClassifyResult(index=index, error=error_status(outcome.error, field=f"items[{index}]"))


def _fill_result(index: int, outcome: JudgeOutcome) -> pb.FillMaskResult:
    if isinstance(outcome.found, Filled):
        return pb.FillMaskResult(index=index, filled=write_filled(outcome.found))
    assert outcome.error is not None, outcome
    error: Exception = outcome.error
    if isinstance(error, MplugError):
        # The model's own words name the place in its batch.
        message = "there is no [MASK] in the part of the text that the model reads; shorten the text"
        error = invalid_argument(f"texts[{index}]", message, reason="NO_MASK")
    return pb.FillMaskResult(index=index, error=error_status(error, field=f"texts[{index}]"))


def _truncated(outcomes: dict[int, JudgeOutcome]) -> list[int]:
    return sorted(
        index for index, each in outcomes.items() if each.found is not None and each.found.truncated
    )
