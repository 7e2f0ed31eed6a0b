"""Reranking: pictures to tokens, and a text with many pictures' tokens to probabilities.

Legend: C pictures of a chunk, R image side, L text tokens, N visual tokens, D their width.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from mplug.fingerprint import fingerprint
from mplug.itm_scoring import ItmScorer, TextSide
from mplug.reranking import RerankModel
from mplug_services.rerank_work import EncodeImage, MatchPair
from mplug_services.runners.runner import Alive, Deliver, Runner
from mplug_services.work import NonFiniteError, WorkItem, WorkKind

logger = logging.getLogger(__name__)

PICTURES_AT_ONCE = {"cpu": 2, "cuda": 32}
"""Pictures of one quantum. A CPU gains little from more, and what is urgent waits for the whole quantum."""
TEXTS_KEPT = 8
"""Texts whose side is kept: the pairs of one search come in several batches."""


def make_runners(model: RerankModel) -> list[Runner]:
    """Both runners of a model."""
    return [EncodeRunner(model), MatchRunner(model)]


def vision_fingerprint(model: RerankModel) -> str:
    """sha256, in hex, of everything that image tokens depend on."""
    tensors = {f"image_encoder.{key}": tensor for key, tensor in model.image_encoder.state_dict().items()}
    shape = {"image_encoder": asdict(model.config.image_encoder), "dtype": str(model.dtype)}
    return fingerprint(tensors, model.preprocess, {}, shape)


class EncodeRunner:
    """Makes image tokens.

    Args:
        model: whose vision tower it is.
    """

    kind = WorkKind.ENCODE

    def __init__(self, model: RerankModel) -> None:
        self._model = model
        self._at_once = PICTURES_AT_ONCE["cpu" if model.device.type == "cpu" else "cuda"]

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """A quantum for every few pictures; see `Runner`."""
        pictures = [item for item in items if isinstance(item, EncodeImage)]

        def encode(places: Sequence[int]) -> None:
            pixels = np.stack([pictures[place].pixels for place in places])
            tokens_CND = self._model.encode_image(torch.from_numpy(pixels).to(self._model.device))
            for place, tokens_ND in zip(places, tokens_CND.float().cpu().numpy(), strict=True):
                deliver(place, _finite_tokens(tokens_ND))

        for start in range(0, len(pictures), self._at_once):
            stop = min(start + self._at_once, len(pictures))
            places = [place for place in range(start, stop) if alive(place)]
            _or_each(encode, places, deliver)
            yield

    def warm_up(self) -> list[list[WorkItem]]:
        """One picture, and a quantum of them."""
        side = self._model.preprocess.image_size
        item = EncodeImage(pixels=np.zeros((3, side, side), dtype=np.uint8))
        return [[item], [item] * self._at_once]


class MatchRunner:
    """Scores pairs of one text.

    Args:
        model: the model.
    """

    kind = WorkKind.RERANK

    def __init__(self, model: RerankModel) -> None:
        self._model = model
        self._scorer = ItmScorer(model)
        self._texts: OrderedDict[bytes, TextSide] = OrderedDict()

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """A quantum for each of the scorer's chunks; see `Runner`."""
        pairs = [item for item in items if isinstance(item, MatchPair)]
        text = self._text_side(pairs[0].ids)

        def score(places: Sequence[int]) -> None:
            tokens_CND = torch.from_numpy(np.stack([pairs[place].tokens for place in places]))
            scores_C = self._scorer.score_chunk(text, self._scorer.prepare_images(tokens_CND))
            for place, probability in zip(places, scores_C.tolist(), strict=True):
                deliver(place, _finite_probability(probability))

        for part in self._scorer.chunks(_shapes(pairs), text):
            places = [place for place in range(part.start, part.stop) if alive(place)]
            _or_each(score, places, deliver)
            yield

    def warm_up(self) -> list[list[WorkItem]]:
        """One pair, and several."""
        side = self._model.preprocess.image_size
        pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self._model.device)
        with torch.inference_mode():
            tokens = self._model.encode_image(pixels)[0].float().cpu().numpy()
        item = MatchPair(ids=self._model.tokenizer.encode("warm up").ids, tokens=tokens)
        return [[item], [item] * 4]

    def _text_side(self, ids: NDArray[np.int64]) -> TextSide:
        key = ids.tobytes()
        if key not in self._texts:
            self._texts[key] = self._scorer.prepare_text(torch.from_numpy(ids.copy())[None])
            if len(self._texts) > TEXTS_KEPT:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]


def _shapes(pairs: Sequence[MatchPair]) -> list[torch.Tensor]:
    """What the scorer needs to cut pairs into chunks: how many there are, and how large."""
    return [torch.empty(pair.tokens.shape, device="meta") for pair in pairs]


def _or_each(run: Callable[[Sequence[int]], None], places: Sequence[int], deliver: Deliver) -> None:
    """Run items together; where that fails, one by one, so that only the culprit fails."""
    try:
        if places:
            run(places)
    except Exception as error:
        if len(places) == 1:
            logger.error("a quantum of reranking failed", exc_info=True)
            deliver(places[0], error)
            return
        for place in places:
            _or_each(run, [place], deliver)


def _finite_tokens(tokens_ND: NDArray[np.float32]) -> NDArray[np.float32] | Exception:
    if np.isfinite(tokens_ND).all():
        return tokens_ND.copy()  # so that an item's tokens do not keep the whole batch in memory
    return NonFiniteError("the vision tower gave NaN or infinity for this picture")


def _finite_probability(probability: float) -> float | Exception:
    if np.isfinite(probability):
        return probability
    return NonFiniteError("the model gave NaN for this picture and text")
