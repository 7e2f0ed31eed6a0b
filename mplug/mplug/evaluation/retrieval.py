"""Retrieval in three orders: by the cosine (ITC), the first candidates by match probability (ITM), and by both.

Legend: T texts, C pictures, Q queries of either kind, K candidates that are matched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.evaluation.recall import Matrix, Recall, Relevance, recall
from mplug.itm_scoring import Images, ItmScorer
from mplug.score_fusion import Order, ScoreFusion, fused_order

_DEPTH = 10
"""Places that recall looks at."""


def candidates(cosines_QC: Matrix, top_k: int) -> NDArray[np.intp]:
    """The `top_k` best of each query, best first; equals in their order: (Q, K)."""
    return np.argsort(-cosines_QC, axis=1, kind="stable")[:, :top_k]


def wanted_pairs(cosines_TC: Matrix, top_k: int) -> Relevance:
    """Which pairs of text and picture are among the first candidates of either: bool (T, C)."""
    wanted = np.zeros(cosines_TC.shape, dtype=np.bool_)
    np.put_along_axis(wanted, candidates(cosines_TC, top_k), True, axis=1)
    np.put_along_axis(wanted.T, candidates(cosines_TC.T, top_k), True, axis=1)
    return wanted


def match_pairs(
    scorer: ItmScorer,
    texts: Sequence[NDArray[np.int64]],
    images: Images,
    wanted_TC: Relevance,
    on_text: Callable[[], None] = lambda: None,
) -> Matrix:
    """Match probabilities of the wanted pairs; a text is encoded once for all its pictures.

    Args:
        scorer: of the model that matches.
        texts: ids of each text, unpadded.
        images: image_tokens of each picture, as `ItmScorer` takes them.
        wanted_TC: as of `wanted_pairs`.
        on_text: called after each text.

    Returns:
        float32 (T, C), NaN where a pair was not wanted.
    """
    found_TC = np.full(wanted_TC.shape, np.nan, dtype=np.float32)
    for row, ids in enumerate(texts):
        columns = np.flatnonzero(wanted_TC[row])
        if len(columns):
            chosen = _pictures(images, columns)
            found_TC[row, columns] = scorer.score(torch.from_numpy(ids)[None], chosen).numpy()
        on_text()
    return found_TC


def order_recalls(
    cosines_QC: Matrix,
    matches_QC: Matrix,
    relevant_QC: Relevance,
    top_k: int,
    fusion: ScoreFusion = ScoreFusion.SUM,
) -> dict[Order, Recall]:
    """Recall in each order; what lies behind the first candidates stays where the cosine put it.

    Args:
        cosines_QC: of queries and candidates.
        matches_QC: match probabilities, at least of each query's `top_k` best.
        relevant_QC: which candidates are right.
        top_k: how many candidates of a query are reordered.
        fusion: what BOTH is, with the server's meaning.
    """
    places_QD = candidates(cosines_QC, max(top_k, _DEPTH))
    rules = {Order.ITM: ScoreFusion.MATCH, Order.BOTH: fusion}
    ranked = {order: _ranks(cosines_QC, matches_QC, places_QD, top_k, rule) for order, rule in rules.items()}
    return {
        Order.ITC: recall(cosines_QC, relevant_QC),
        **{order: recall(scores_QC, relevant_QC) for order, scores_QC in ranked.items()},
    }


def _ranks(
    cosines_QC: Matrix, matches_QC: Matrix, places_QD: NDArray[np.intp], top_k: int, rule: ScoreFusion
) -> Matrix:
    """Scores that fall with the place; -inf behind the places that count."""
    scores_QC = np.full(cosines_QC.shape, -np.inf, dtype=np.float32)
    for query, places_D in enumerate(places_QD):
        first = places_D[:top_k]
        matches = matches_QC[query, first]
        assert not np.isnan(matches).any(), "match_pairs is given the pairs of wanted_pairs"
        order = fused_order(cosines_QC[query, first].tolist(), matches.tolist(), rule)
        ranking = np.concatenate([first[order], places_D[top_k:]])
        scores_QC[query, ranking] = -np.arange(len(ranking), dtype=np.float32)
    return scores_QC


def _pictures(images: Images, columns: NDArray[np.intp]) -> Images:
    if isinstance(images, Tensor):
        return images[torch.from_numpy(columns)]
    return [images[column] for column in columns]
