"""From what a request asks for to work items: its prompt or answers tokenized and held against the decoder's limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug.decoder_facts import DecoderFacts
from mplug.errors import MplugError
from mplug.text.tokenizer import Tokenizer, Tokens
from mplug_services.errors import invalid_argument
from mplug_services.generation_options import GenerationSettings
from mplug_services.generation_work import AnswerQuestion, CaptionImage, PictureItem, RankAnswers
from mplug_services.prepare import Preparer

MakeItem = Callable[[NDArray[np.uint8], Tokens | None], PictureItem]
"""From pixels and the question's tokens to a work item."""


@dataclass(frozen=True, slots=True)
class Urgency:
    """When a call wants its items to be served."""

    deadline: float | None
    """`time.monotonic()` after which nobody waits any more; None: no such time."""
    patience: float
    """Seconds in which it wants to be served (see `Scheduler`)."""


class TextItems:
    """Makes the items of a `Generator`.

    Args:
        decoder: of its model.
        tokenizer: likewise.
        preparer: tokenizes.
    """

    def __init__(self, decoder: DecoderFacts, tokenizer: Tokenizer, preparer: Preparer) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._preparer = preparer

    async def captions(
        self, settings: GenerationSettings, prompt: str, urgency: Urgency, *, stream: bool = False
    ) -> MakeItem:
        """Items that describe pictures.

        Raises:
            ServiceError: the prompt is longer than the model reads, or leaves too little of the decoder.
        """
        prompt_ids = await self._prompt_ids(prompt)
        try:
            self._decoder.check_length(len(prompt_ids), settings.config.max_length)
        except MplugError as error:
            raise invalid_argument(
                f"{settings.field}.max_length", str(error), reason="OUT_OF_RANGE"
            ) from error

        def make(pixels: NDArray[np.uint8], _: Tokens | None) -> PictureItem:
            return CaptionImage(
                pixels=pixels,
                config=settings.config,
                prompt=prompt_ids,
                seed=settings.seed,
                stream=stream,
                deadline=urgency.deadline,
                patience=urgency.patience,
            )

        return make

    def answers(self, settings: GenerationSettings, urgency: Urgency, *, stream: bool = False) -> MakeItem:
        """Items that answer questions; `read_options` has seen that the decoder holds the longest answer."""

        def make(pixels: NDArray[np.uint8], question: Tokens | None) -> PictureItem:
            assert question is not None, "answers are for questions"
            return AnswerQuestion(
                pixels=pixels,
                question=question.ids,
                config=settings.config,
                prompt=(self._decoder.bos_id,),
                seed=settings.seed,
                stream=stream,
                deadline=urgency.deadline,
                patience=urgency.patience,
            )

        return make

    async def ranked(self, answers: Sequence[str], k: int, urgency: Urgency, *, field: str) -> MakeItem:
        """Items that choose among given answers, whose path in the request is `field`.

        Raises:
            ServiceError: an answer is longer than the model reads.
        """
        ids = await self._answer_ids(answers, field)

        def make(pixels: NDArray[np.uint8], question: Tokens | None) -> PictureItem:
            assert question is not None, "answers are for questions"
            return RankAnswers(
                pixels=pixels,
                question=question.ids,
                answers=ids,
                k=k,
                deadline=urgency.deadline,
                patience=urgency.patience,
            )

        return make

    async def _prompt_ids(self, prompt: str) -> tuple[int, ...]:
        if not prompt:  # as most: nothing to wait for behind other calls' pictures
            return (self._decoder.bos_id,)
        (tokens,) = await self._preparer.texts([prompt], self._tokenizer)
        if isinstance(tokens, Exception):
            raise tokens
        try:
            return tuple(self._decoder.prompt_ids(tokens))
        except MplugError as error:
            raise invalid_argument("prompt", str(error), reason="PROMPT_TOO_LONG") from error

    async def _answer_ids(self, answers: Sequence[str], field: str) -> tuple[tuple[int, ...], ...]:
        ids = []
        for index, tokens in enumerate(await self._preparer.texts(answers, self._tokenizer)):
            if isinstance(tokens, Exception):
                raise tokens
            try:
                ids.append(tuple(self._decoder.answer_ids(tokens)))
            except MplugError as error:
                raise invalid_argument(f"{field}[{index}]", str(error), reason="TEXT_TOO_LONG") from error
        return tuple(ids)
