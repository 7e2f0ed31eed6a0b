"""Captions and answers: the pictures, a few in a quantum, then a quantum for each token of the whole batch.

Legend: B items of a batch, R image side, L text tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.cached_decoder import CachedDecoder
from mplug.captioning import Captioner
from mplug.decoder_state import DecoderState
from mplug.generation import Event, Finished, GenerationConfig, decode_steps, rank_answers
from mplug.text.tokenizer import Tokens, pad
from mplug.vqa import VqaModel
from mplug_services.generation_work import (
    AnswerQuestion,
    CaptionImage,
    GeneratedIds,
    GenerateItem,
    PictureItem,
    RankAnswers,
    RankedIndices,
)
from mplug_services.runners.runner import Alive, Deliver
from mplug_services.work import NonFiniteError, Progress, WorkItem, WorkKind

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT", bound=GenerateItem)
ResultT = TypeVar("ResultT")
Quanta = Callable[[Sequence[int]], Iterator[None]]
"""Runs the items at some places of a batch."""

WARM_UP_TOKENS = 2
PICTURES_AT_ONCE = {"cpu": 2, "cuda": 32}
"""Pictures of one quantum. A CPU gains little from more, and what is urgent waits for the whole quantum."""


class CaptionRunner:
    """Describes pictures.

    Args:
        model: image encoder and decoder.
    """

    kind = WorkKind.CAPTION

    def __init__(self, model: Captioner) -> None:
        self._model = model

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """Quanta of a batch of `CaptionImage`; see `Runner`."""
        captions = [item for item in items if isinstance(item, CaptionImage)]
        yield from generate(self._model, self._start, captions, deliver, alive)

    def warm_up(self) -> list[list[WorkItem]]:
        """One item, and a batch."""
        item = CaptionImage(**_warm_up_item(self._model))
        return [[item], [item] * 2]

    def _start(self, items: Sequence[CaptionImage], image_BND: Tensor) -> DecoderState:
        return self._model.start_decoding(image_BND)


class AnswerRunner:
    """Answers questions about pictures.

    Args:
        model: the whole of mPLUG.
    """

    kind = WorkKind.ANSWER

    def __init__(self, model: VqaModel) -> None:
        self._model = model

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """Quanta of a batch of `AnswerQuestion`, or of one of `RankAnswers`; see `Runner`."""
        ranked = [item for item in items if isinstance(item, RankAnswers)]
        for place in range(len(ranked)):
            yield from _or_each(
                lambda places: self._rank(places[0], ranked[places[0]], deliver, alive),
                [place],
                deliver,
                alive,
            )
        questions = [item for item in items if isinstance(item, AnswerQuestion)]
        yield from generate(self._model, self._start, questions, deliver, alive)

    def warm_up(self) -> list[list[WorkItem]]:
        """One item, and a batch."""
        question = self._model.tokenizer.encode("warm up").ids
        item = AnswerQuestion(question=question, **_warm_up_item(self._model))
        return [[item], [item] * 2]

    def _start(self, items: Sequence[AnswerQuestion | RankAnswers], image_BND: Tensor) -> DecoderState:
        model = self._model
        ids_BL, mask_BL = pad([Tokens(item.question, False) for item in items], model.tokenizer.pad_id)
        ids, mask = (torch.from_numpy(each).to(model.device) for each in (ids_BL, mask_BL))
        return model.start_decoding(image_BND, ids, mask)

    def _rank(self, place: int, item: RankAnswers, deliver: Deliver, alive: Alive) -> Iterator[None]:
        if not alive(place):
            return
        images = yield from encode_pictures(self._model, {place: item}, alive)
        if place not in images:
            return
        state = self._start([item], images[place])
        (best,) = rank_answers(self._model.text_decoder, lambda _: state, item.answers, num_items=1, k=item.k)
        found = RankedIndices(tuple(one.index for one in best), tuple(one.probability for one in best))
        deliver(place, _finite(found, found.probabilities))
        yield


def generate(
    model: Captioner | VqaModel,
    start: Callable[[Sequence[ItemT], Tensor], DecoderState],
    items: Sequence[ItemT],
    deliver: Deliver,
    alive: Alive,
) -> Iterator[None]:
    """Generate texts for items of equal settings; one that fails is tried alone, so that it harms no other.

    Args:
        model: has the vision tower and the decoder.
        start: opens a state for some of the items and their image_tokens (B, N, D).
        items: the batch.
        deliver: as in `Runner.run`.
        alive: as in `Runner.run`.
    """

    def quanta(places: Sequence[int]) -> Iterator[None]:
        images = yield from encode_pictures(model, {place: items[place] for place in places}, alive)
        going = {place: items[place] for place in images if alive(place)}
        if going:
            state = start(list(going.values()), torch.cat([images[place] for place in going]))
            del images
            yield from _decode(model.text_decoder, state, going, deliver, alive)

    together = [list(range(len(items)))] if items else []
    if items and items[0].config.deterministic:
        together = [[place] for place in together[0]]
    for places in together:
        yield from _or_each(quanta, places, deliver, alive)


def encode_pictures(
    model: Captioner | VqaModel, items: Mapping[int, PictureItem], alive: Alive
) -> Generator[None, None, dict[int, Tensor]]:
    """Image tokens (1, N, D) of the items that are alive, a few pictures in a quantum."""
    images: dict[int, Tensor] = {}
    places = list(items)
    most = PICTURES_AT_ONCE[model.device.type]
    for start in range(0, len(places), most):
        going = [place for place in places[start : start + most] if alive(place)]
        if going:
            tokens = model.encode_image(_stack_pixels([items[place] for place in going], model.device))
            images |= dict(zip(going, torch.split(tokens, 1), strict=True))
            yield
    return images


def _decode(
    decoder: CachedDecoder[Any],
    state: DecoderState,
    items: dict[int, ItemT],
    deliver: Deliver,
    alive: Alive,
) -> Iterator[None]:
    config = next(iter(items.values())).config
    prompts = {place: item.prompt for place, item in items.items()}
    seeds = [item.seed for item in items.values()]
    streamed = {place: list(item.prompt) for place, item in items.items() if item.stream}
    for events in decode_steps(decoder, state, prompts, config, seeds, alive=alive):
        _tell(events, streamed, deliver)
        yield


def _tell(events: Sequence[Event], streamed: dict[int, list[int]], deliver: Deliver) -> None:
    """Deliver texts that are finished, and report streamed ones that have grown."""
    grown: dict[int, list[int]] = {}
    for event in events:
        if isinstance(event, Finished):
            texts = event.hypotheses
            found = GeneratedIds(tuple(one.ids for one in texts), tuple(one.score for one in texts))
            deliver(event.item, _finite(found, found.scores))
            grown.pop(event.item, None)
        elif event.text == 0 and event.item in streamed:
            streamed[event.item].append(event.id)
            grown[event.item] = streamed[event.item]
    for place, ids in grown.items():
        deliver(place, Progress(tuple(ids)))


def _or_each(quanta: Quanta, places: Sequence[int], deliver: Deliver, alive: Alive) -> Iterator[None]:
    """Run items together; after a failure each that is left alone, so that only the culprit fails."""
    try:
        yield from quanta(places)
        return
    except Exception as error:
        logger.error("a decoding of %d items failed", len(places), exc_info=True)
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(places) == 1:
            deliver(places[0], error)
    # Outside of the handler, which would keep the failed batch's tensors.
    if len(places) > 1:
        for place in places:
            yield from _or_each(quanta, [place], deliver, alive)


def _finite(found: ResultT, numbers: Sequence[float]) -> ResultT | NonFiniteError:
    if all(map(math.isfinite, numbers)):
        return found
    return NonFiniteError("the model gave NaN or infinity for this item")


def _stack_pixels(items: Sequence[PictureItem], device: torch.device) -> Tensor:
    """Pixels uint8 (B, 3, R, R)."""
    return torch.from_numpy(np.stack([item.pixels for item in items])).to(device)


# Any: arguments of an item.
def _warm_up_item(model: Captioner | VqaModel) -> dict[str, Any]:
    side = model.preprocess.image_size
    pixels: NDArray[np.uint8] = np.zeros((3, side, side), dtype=np.uint8)
    own = model.config.generation.settings({"min_length": WARM_UP_TOKENS, "max_length": WARM_UP_TOKENS})
    decoder, config = model.text_decoder, GenerationConfig(**own)
    beam_size = min(config.beam_size, decoder.vocab_size // (config.candidates // config.beam_size))
    return {"pixels": pixels, "config": replace(config, beam_size=beam_size), "prompt": (decoder.bos_id,)}
