"""From texts that a model wrote to what it looked at: one more pass for each word, and the maps over the picture."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mplug.decoder_facts import DecoderFacts
from mplug.heat_maps import Explain, HeatMap, words_in
from mplug.text.tokenizer import Tokens, WordPieceTokenizer
from mplug_services.engine_seam import WorkQueue
from mplug_services.explain_work import ExplainWords
from mplug_services.prepare import PreparedImage, Preparer
from mplug_services.room import run_when_room, stage_seconds
from mplug_services.served_model import ServedModel
from mplug_services.tasks import first_error
from mplug_services.work import DeadlineExceededError, WorkResult

if TYPE_CHECKING:
    from mplug_services.generator import TextBatch, TextOutcome  # which has an Explainer

EXPLAIN_PATIENCE = 10.0
"""Seconds: as the batch of texts that is explained."""


class Explainer:
    """Explains the best text of each outcome of a `Generator`.

    Args:
        model: that wrote them.
        decoder: of the model.
        engine: runs the work.
        preparer: decodes, tokenizes and draws.
    """

    def __init__(
        self, model: ServedModel, decoder: DecoderFacts, engine: WorkQueue, preparer: Preparer
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._engine = engine
        self._preparer = preparer

    async def explain(
        self,
        batch: TextBatch,
        images: Sequence[bytes],
        explain: Explain,
        *,
        questions: Sequence[str] | None = None,
        answers: Sequence[str] = (),
        deadline: float | None = None,
    ) -> TextBatch:
        """Add heat maps to a batch of texts; one that cannot be explained has the error as its outcome.

        Args:
            batch: the outcomes.
            images: the files of their pictures.
            explain: what is wanted.
            questions: of the outcomes, where the texts are answers.
            answers: that ranked outcomes are places of.
            deadline: `time.monotonic()` after which nobody waits any more; None: no such time.

        Raises:
            WorkError: the deadline passed. Cancellation ends the work.
        """
        run = _Run(explain, deadline, answers)
        asked: Sequence[str | None] = questions or [None] * len(images)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._outcome(run, outcome, image, question))
                    for outcome, image, question in zip(batch.outcomes, images, asked, strict=True)
                ]
        except ExceptionGroup as errors:
            raise first_error(errors) from errors
        seconds = batch.seconds.then(stage_seconds(run.prepare, run.results))
        return replace(batch, outcomes=[task.result() for task in tasks], seconds=seconds)

    async def _outcome(
        self, run: _Run, outcome: TextOutcome, image: bytes, question: str | None
    ) -> TextOutcome:
        if outcome.error is not None:
            return outcome
        try:
            ids = await self._best_ids(run, outcome)
            return replace(outcome, heat_maps=await self._maps(run, ids, image, question))
        except DeadlineExceededError:
            raise  # it concerns the whole call
        except Exception as error:
            return replace(outcome, error=error)

    async def _best_ids(self, run: _Run, outcome: TextOutcome) -> tuple[int, ...]:
        if outcome.ranked is None:
            return outcome.texts[0].ids
        tokens = await self._tokenize(run.answers[outcome.ranked.indices[0]])
        return tuple(self._decoder.answer_ids(tokens))

    async def _maps(
        self, run: _Run, ids: tuple[int, ...], image: bytes, question: str | None
    ) -> tuple[HeatMap, ...]:
        tokenizer = self._decoder.tokenizer
        assert isinstance(tokenizer, WordPieceTokenizer), "other models have no explained layers"
        words = words_in(ids, tokenizer)
        if not words:
            return ()
        started = time.monotonic()
        (prepared,) = await self._preparer.images([image], self._model.image_size)
        if not isinstance(prepared, PreparedImage):
            raise prepared
        item = ExplainWords(
            pixels=prepared.pixels,
            task=self._model.task,
            question=None if question is None else (await self._tokenize(question)).ids,
            ids=ids,
            words=tuple(words),
            layer=run.explain.layer,
            deadline=run.deadline,
            patience=EXPLAIN_PATIENCE,
        )
        run.prepare = max(run.prepare, time.monotonic() - started)
        result = await run_when_room(self._engine, item)
        run.results.append(result)
        maps = result.expect(list)
        overlays = await self._preparer.overlays(image, maps)
        return tuple(
            HeatMap(word.text, word.tokens, cells_HW, overlay)
            for word, cells_HW, overlay in zip(words, maps, overlays, strict=True)
        )

    async def _tokenize(self, text: str) -> Tokens:
        (tokens,) = await self._preparer.texts([text], self._model.tokenizer)
        if isinstance(tokens, Exception):
            raise tokens
        return tokens


@dataclass(slots=True, eq=False)
class _Run:
    """One batch on its way."""

    explain: Explain
    deadline: float | None
    answers: Sequence[str]
    prepare: float = 0.0
    """Seconds of the picture that took longest."""
    results: list[WorkResult] = field(default_factory=list)
