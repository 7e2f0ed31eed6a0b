"""From pictures, prompts and questions to texts: room in the queue, preparation, the model; an outcome for each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug.decoder_facts import DecoderFacts
from mplug.heat_maps import HeatMap
from mplug.text.tokenizer import Tokens
from mplug_services.engine_seam import WorkQueue
from mplug_services.explainer import Explainer
from mplug_services.generation_options import GenerationSettings
from mplug_services.generation_work import GeneratedIds, RankedIndices
from mplug_services.prepare import PreparedImage, Preparer
from mplug_services.room import Room, StageSeconds, stage_seconds
from mplug_services.served_model import ServedModel
from mplug_services.tasks import both
from mplug_services.text_items import MakeItem, TextItems, Urgency
from mplug_services.work import WorkResult

GENERATE_PATIENCE = 10.0
"""Seconds: a batch of captions or answers."""
STREAM_PATIENCE = 3.0
"""Seconds: somebody reads along."""


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One text."""

    text: str
    """Prompt and continuation, without special tokens; of what is made of texts, the continuation."""
    score: float
    ids: tuple[int, ...]
    log_probs: tuple[float, ...] = ()
    """Of each generated token, where they were asked for."""
    finish_reason: str = ""
    """`end`, `length` or `stop`; empty where it is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class TextOutcome:
    """What became of one item: texts, best first, ranked answers, or an error."""

    texts: tuple[GeneratedText, ...] = ()
    ranked: RankedIndices | None = None
    error: Exception | None = None
    truncated: bool = False
    """The question was longer than the model reads."""
    heat_maps: tuple[HeatMap, ...] = ()
    """Of the best text's words, where its `explainer` made them."""


@dataclass(frozen=True, slots=True, eq=False)
class TextBatch:
    """Outcomes in the order of the items."""

    outcomes: list[TextOutcome]
    seconds: StageSeconds


@dataclass(frozen=True, slots=True)
class PictureQuestion:
    """A question about a picture."""

    image: bytes
    """The file's bytes."""
    question: str


class Generator:
    """What CaptionService, VqaService and SearchService share.

    Args:
        model: a loaded model that has a decoder.
        engine: runs the work.
        preparer: decodes and tokenizes.
    """

    def __init__(self, model: ServedModel, engine: WorkQueue, preparer: Preparer) -> None:
        assert model.decoder is not None, model
        self.model = model
        self.decoder: DecoderFacts = model.decoder
        self.explainer = Explainer(model, model.decoder, engine, preparer)
        self._items = TextItems(model.decoder, model.tokenizer, preparer)
        self._engine = engine
        self._preparer = preparer

    async def caption(
        self,
        images: Sequence[bytes],
        settings: GenerationSettings,
        *,
        prompt: str = "",
        deadline: float | None = None,
        patience: float = GENERATE_PATIENCE,
    ) -> TextBatch:
        """Describe encoded pictures.

        Args:
            images: the files' bytes.
            settings: of all of them.
            prompt: what every caption begins with.
            deadline: `time.monotonic()` after which nobody waits any more; None: no such time.
            patience: seconds in which it wants to be served (see `Scheduler`).

        Raises:
            ServiceError: the prompt, or prompt and `max_length`, go beyond what the model reads.
            WorkError: the whole batch was refused, or its deadline passed. Cancellation ends its work.
        """
        make = await self._items.captions(settings, prompt, Urgency(deadline, patience))
        return await self._run(images, None, make)

    async def stream_caption(
        self, image: bytes, settings: GenerationSettings, *, prompt: str = "", deadline: float | None = None
    ) -> AsyncGenerator[str | TextOutcome, None]:
        """Describe one picture; arguments and errors as in `caption`.

        Yields:
            The text so far, from its beginning, as it grows, and at last the outcome. Closing the iterator
            ends the work.
        """
        urgency = Urgency(deadline, STREAM_PATIENCE)
        make = await self._items.captions(settings, prompt, urgency, stream=True)
        async with contextlib.aclosing(self._stream(image, None, make)) as steps:
            async for step in steps:
                yield step

    async def answer(
        self,
        questions: Sequence[PictureQuestion],
        settings: GenerationSettings,
        *,
        deadline: float | None = None,
        patience: float = GENERATE_PATIENCE,
    ) -> TextBatch:
        """Answer questions in words of the model's own; arguments and errors as in `caption`."""
        make = self._items.answers(settings, Urgency(deadline, patience))
        return await self._run(
            [each.image for each in questions], [each.question for each in questions], make
        )

    async def stream_answer(
        self, question: PictureQuestion, settings: GenerationSettings, *, deadline: float | None = None
    ) -> AsyncGenerator[str | TextOutcome, None]:
        """Answer one question; yields as `stream_caption` does."""
        make = self._items.answers(settings, Urgency(deadline, STREAM_PATIENCE), stream=True)
        async with contextlib.aclosing(self._stream(question.image, question.question, make)) as steps:
            async for step in steps:
                yield step

    async def rank(
        self,
        questions: Sequence[PictureQuestion],
        answers: Sequence[str],
        k: int,
        *,
        field: str,
        deadline: float | None = None,
    ) -> TextBatch:
        """Choose among given answers.

        Args:
            questions: to be answered.
            answers: to choose from, at least one.
            k: how many likely ones are scored in full.
            field: path of the answers in the request.
            deadline: as in `caption`.

        Raises:
            ServiceError: an answer is longer than the model reads.
            WorkError: as in `caption`.
        """
        make = await self._items.ranked(answers, k, Urgency(deadline, GENERATE_PATIENCE), field=field)
        return await self._run(
            [each.image for each in questions], [each.question for each in questions], make
        )

    async def _run(
        self, images: Sequence[bytes], questions: Sequence[str] | None, make: MakeItem
    ) -> TextBatch:
        if not images:
            return TextBatch([], StageSeconds())
        async with Room(self._engine, len(images)) as room:
            started = time.monotonic()
            prepared = await self._prepare(images, questions)
            seconds = time.monotonic() - started
            items = [make(*each) for each in prepared if isinstance(each, tuple)]
            results = iter(await room.run(items))
        outcomes = [
            self._outcome(each[1], next(results)) if isinstance(each, tuple) else TextOutcome(error=each)
            for each in prepared
        ]
        return TextBatch(outcomes, stage_seconds(seconds, room.results))

    async def _stream(
        self, image: bytes, question: str | None, make: MakeItem
    ) -> AsyncGenerator[str | TextOutcome, None]:
        async with Room(self._engine, 1) as room:
            (prepared,) = await self._prepare([image], None if question is None else [question])
            if isinstance(prepared, Exception):
                yield TextOutcome(error=prepared)
                return
            async with contextlib.aclosing(room.stream(make(*prepared))) as steps:
                async for step in steps:
                    if isinstance(step, tuple):
                        yield self.decoder.tokenizer.decode(step)
                    else:
                        assert isinstance(step, WorkResult | Exception), step
                        yield self._outcome(prepared[1], step)

    async def _prepare(
        self, images: Sequence[bytes], questions: Sequence[str] | None
    ) -> list[tuple[NDArray[np.uint8], Tokens | None] | Exception]:
        """Pixels and the question's tokens of each item, or what is wrong with it."""
        pictures, texts = await both(
            self._preparer.images(images, self.model.image_size),
            self._preparer.texts(questions or [], self.model.tokenizer),
        )
        return [
            _pair(picture, text)
            for picture, text in zip(pictures, texts if questions else [None] * len(images), strict=True)
        ]

    def _outcome(self, question: Tokens | None, result: WorkResult | Exception) -> TextOutcome:
        truncated = question is not None and question.truncated
        if isinstance(result, Exception):
            return TextOutcome(error=result, truncated=truncated)
        if isinstance(result.value, RankedIndices):
            return TextOutcome(ranked=result.value, truncated=truncated)
        found = result.expect(GeneratedIds)
        decode = self.decoder.tokenizer.decode
        texts = tuple(
            GeneratedText(decode(ids), score, ids)
            for ids, score in zip(found.texts, found.scores, strict=True)
        )
        return TextOutcome(texts, truncated=truncated)


def _pair(
    picture: PreparedImage | Exception, text: Tokens | Exception | None
) -> tuple[NDArray[np.uint8], Tokens | None] | Exception:
    if isinstance(picture, Exception):
        return picture
    return text if isinstance(text, Exception) else (picture.pixels, text)
