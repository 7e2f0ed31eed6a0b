"""From texts to what a model writes of them: room in the queue, reading, the model; an outcome for each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mplug.errors import MplugError
from mplug_services.engine_seam import WorkQueue
from mplug_services.errors import Failure, ServiceError, StatusCode
from mplug_services.generation_options import GenerationSettings
from mplug_services.generator import (
    GENERATE_PATIENCE,
    STREAM_PATIENCE,
    GeneratedText,
    TextBatch,
    TextOutcome,
)
from mplug_services.prepare import Preparer
from mplug_services.room import Room, StageSeconds, stage_seconds
from mplug_services.served_model import ServedModel
from mplug_services.text_items import Urgency
from mplug_services.text_work import GenerateText
from mplug_services.work import WorkResult
from mplug_services.writer_facts import WriterFacts

if TYPE_CHECKING:
    from mplug.text_generator import Prompt  # it imports torch, and so does the next
    from mplug.text_writing import WrittenText


@dataclass(frozen=True, slots=True)
class Order:
    """How texts of a request are written."""

    settings: GenerationSettings
    stop: tuple[str, ...] = ()
    """A text ends before the first of these."""
    log_probs: bool = False
    """Whether to say how likely each token was."""


class Writer:
    """Writes from texts.

    Args:
        model: a loaded model that does.
        engine: runs the work.
        preparer: tokenizes.
    """

    def __init__(self, model: ServedModel, engine: WorkQueue, preparer: Preparer) -> None:
        assert model.writer is not None, model
        self.model = model
        self.facts: WriterFacts = model.writer
        self._engine = engine
        self._preparer = preparer

    async def write(self, texts: Sequence[str], order: Order, *, deadline: float | None = None) -> TextBatch:
        """Write from several texts.

        Args:
            texts: what is continued, or made into another text.
            order: how.
            deadline: `time.monotonic()` after which nobody waits any more; None: no such time.

        Raises:
            WorkError: the whole batch was refused, or its deadline passed. Cancellation ends its work.
        """
        if not texts:
            return TextBatch([], StageSeconds())
        urgency = Urgency(deadline, GENERATE_PATIENCE)
        async with Room(self._engine, len(texts)) as room:
            started = time.monotonic()
            prompts = await self._read(texts, order)
            seconds = time.monotonic() - started
            items = [_item(each, order, urgency) for each in prompts if not isinstance(each, Exception)]
            results = iter(await room.run(items))
        outcomes = [
            TextOutcome(error=each) if isinstance(each, Exception) else _outcome(each, next(results), order)
            for each in prompts
        ]
        return TextBatch(outcomes, stage_seconds(seconds, room.results))

    async def stream(
        self, text: str, order: Order, *, deadline: float | None = None
    ) -> AsyncGenerator[str | TextOutcome, None]:
        """Write from one text; arguments and errors as in `write`.

        Yields:
            The text so far, from its beginning, as it grows, and at last the outcome. Closing the iterator
            ends the work.
        """
        async with Room(self._engine, 1) as room:
            (prompt,) = await self._read([text], order)
            if isinstance(prompt, Exception):
                yield TextOutcome(error=prompt)
                return
            item = _item(prompt, order, Urgency(deadline, STREAM_PATIENCE), stream=True)
            async with contextlib.aclosing(room.stream(item)) as steps:
                async for step in steps:
                    if isinstance(step, str):
                        yield step
                    else:
                        assert isinstance(step, WorkResult | Exception), step
                        yield _outcome(prompt, step, order)

    async def _read(self, texts: Sequence[str], order: Order) -> list[Prompt | Exception]:
        read = await self._preparer.read(texts, self.facts.read)
        return [self._checked(each, order.settings.config.max_length) for each in read]

    def _checked(self, prompt: Prompt | Exception, max_length: int) -> Prompt | Exception:
        """The prompt, if it leaves room for the text; errors name no field, which only the servicer knows."""
        if isinstance(prompt, MplugError):
            return _refusal("INVALID_TEXT", prompt)
        if isinstance(prompt, Exception):
            return prompt
        try:
            self.facts.check_length(len(prompt.first), max_length)
        except MplugError as error:
            return _refusal("OUT_OF_RANGE", error)
        return prompt


def _refusal(reason: str, error: MplugError) -> ServiceError:
    return ServiceError(Failure(code=StatusCode.INVALID_ARGUMENT, reason=reason, message=str(error)))


def _item(prompt: Prompt, order: Order, urgency: Urgency, *, stream: bool = False) -> GenerateText:
    return GenerateText(
        prompt=prompt,
        config=order.settings.config,
        seed=order.settings.seed,
        stop=order.stop,
        stream=stream,
        deadline=urgency.deadline,
        patience=urgency.patience,
    )


def _outcome(prompt: Prompt, result: WorkResult | Exception, order: Order) -> TextOutcome:
    if isinstance(result, Exception):
        return TextOutcome(error=result, truncated=prompt.truncated)
    written: tuple[WrittenText, ...] = result.expect(tuple)
    texts = tuple(
        GeneratedText(
            each.text,
            each.score,
            each.token_ids,
            each.log_probs if order.log_probs else (),
            each.finish_reason,
        )
        for each in written
    )
    return TextOutcome(texts, truncated=prompt.truncated)
