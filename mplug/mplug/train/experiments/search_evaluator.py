"""Retrieval of an evaluation's pictures by their texts and back: by the cosine, by matching, and by both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mplug.evaluation.recall import Recall, caption_relevance
from mplug.evaluation.retrieval import match_pairs, order_recalls, wanted_pairs
from mplug.itm_scoring import ItmScorer
from mplug.score_fusion import Order
from mplug.text.tokenizer import pad
from mplug.train.experiments.evaluators import EvaluationBatch
from mplug.train.experiments.models import MatchingModel

_TEXTS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchEvaluator:
    """Recall of both directions in all orders.

    The metric `r_mean`, by which the reference chooses, is the mean of recall at 1, 5 and 10 over both directions, the
    first hits in the order of their match probabilities.
    """

    batches: Callable[[], Iterable[EvaluationBatch]]
    texts: Mapping[str, Sequence[str]]
    """Texts by the pictures' keys."""
    rerank_top: int = 256
    """First hits that are matched (`k_test`); 256 of 5000 in the reference."""

    def __call__(self, model: MatchingModel) -> Mapping[str, float]:
        """Metrics by name: `text_to_image_itm_r1` and its like, and `r_mean`."""
        keys, tokens, images_CE = _encode_pictures(model, self.batches())
        queries, relevant_TC = caption_relevance([self.texts[key] for key in keys])
        ids = [each.ids for each in model.tokenizer.encode_batch(queries)]
        cosines_TC = (_embed_texts(model, queries) @ images_CE.T).cpu().numpy()
        top_k = min(self.rerank_top, len(keys))
        matches_TC = match_pairs(ItmScorer(model), ids, tokens, wanted_pairs(cosines_TC, top_k))
        found = {
            "text_to_image": order_recalls(cosines_TC, matches_TC, relevant_TC, top_k),
            "image_to_text": order_recalls(
                np.ascontiguousarray(cosines_TC.T), matches_TC.T, relevant_TC.T, min(top_k, len(queries))
            ),
        }
        return _named(found)


def _encode_pictures(
    model: MatchingModel, batches: Iterable[EvaluationBatch]
) -> tuple[list[str], list[Tensor], Tensor]:
    keys: list[str] = []
    tokens: list[Tensor] = []
    embeds = []
    for batch in batches:
        image_BND = model.encode_image(batch.pixels.to(model.device))
        keys += batch.keys
        tokens += image_BND.unbind()
        embeds.append(model.project_image(image_BND))
    return keys, tokens, torch.cat(embeds)


def _embed_texts(model: MatchingModel, texts: Sequence[str]) -> Tensor:
    embeds = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = model.tokenizer.encode_batch(texts[start : start + _TEXTS_AT_ONCE])
        ids_BL, mask_BL = (
            torch.from_numpy(each).to(model.device) for each in pad(some, model.tokenizer.pad_id)
        )
        embeds.append(model.embed_texts(ids_BL, mask_BL))
    return torch.cat(embeds)


def _named(found: Mapping[str, Mapping[Order, Recall]]) -> dict[str, float]:
    named = {
        f"{direction}_{order}_r{depth}": value
        for direction, orders in found.items()
        for order, recall in orders.items()
        for depth, value in ((1, recall.at_1), (5, recall.at_5), (10, recall.at_10))
    }
    matched = [value for name, value in named.items() if f"_{Order.ITM}_" in name]
    return named | {"r_mean": sum(matched) / len(matched)}
