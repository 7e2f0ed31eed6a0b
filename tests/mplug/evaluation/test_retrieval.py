"""Retrieval in three orders: against ranking every pair by hand, and the plain model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden.mplug_cases import some_pixels, tiny
from mplug.evaluation.recall import Recall
from mplug.evaluation.retrieval import match_pairs, order_recalls, wanted_pairs
from mplug.itm_scoring import ItmScorer
from mplug.reranking import RerankModel
from mplug.score_fusion import Order, ScoreFusion

# By cosine 0 1 2, by match 2 1 0, by the sum 1 2 0; the right one of each query is another.
COSINES = np.array([[0.9, 0.8, 0.1]] * 3, dtype=np.float32)
MATCHES = np.array([[0.0, 0.5, 0.9]] * 3, dtype=np.float32)
EACH = np.eye(3, dtype=np.bool_)


def first_hits(recalls: dict[Order, Recall]) -> list[float]:
    return [recalls[order].at_1 for order in Order]


def test_each_order_has_its_own_first() -> None:
    for right, firsts in enumerate([[100, 0, 0], [0, 0, 100], [0, 100, 0]]):
        found = order_recalls(COSINES[:1], MATCHES[:1], EACH[right : right + 1], top_k=3)
        assert first_hits(found) == firsts


def test_what_is_behind_the_first_candidates_keeps_its_place() -> None:
    unscored = np.array([[0.0, 0.5, np.nan]], dtype=np.float32)
    found = order_recalls(COSINES[:1], unscored, EACH[1:2], top_k=2)
    assert first_hits(found) == [0, 100, 100]
    with pytest.raises(AssertionError, match="wanted_pairs"):
        order_recalls(COSINES[:1], unscored, EACH[1:2], top_k=3)


@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**32 - 1))
def test_as_many_candidates_as_there_are_is_ranking_by_the_match(count: int, top_k: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    cosines, matches = (chance.permutation(count**2).reshape(count, count).astype("f") for _ in "ab")
    relevant = np.eye(count, dtype=np.bool_)
    found = order_recalls(cosines, matches, relevant, top_k, ScoreFusion.SUM)
    for row_count, place in ((1, "at_1"), (5, "at_5"), (10, "at_10")):
        hits = 0
        for query in range(count):
            order = np.argsort(-cosines[query]).tolist()
            head = sorted(order[:top_k], key=(-matches[query]).__getitem__)
            hits += query in [*head, *order[top_k:]][:row_count]
        assert getattr(found[Order.ITM], place) == pytest.approx(100 * hits / count)


def test_wanted_pairs_are_the_first_of_either_side() -> None:
    cosines = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.3]], dtype=np.float32)
    assert wanted_pairs(cosines, 1).tolist() == [[True, False, False], [True, True, True]]
    assert wanted_pairs(cosines, 9).all()


def test_wanted_pairs_are_scored_as_the_plain_model_scores_them() -> None:
    model = tiny(RerankModel)
    texts = [np.array([101, 7, 8, 9, 102]), np.array([101, 11, 102]), np.array([101, 12, 102])]
    wanted = np.array([[True, False, True, True], [False, True, False, True], [False] * 4])
    called = []
    with torch.inference_mode():
        images = model.encode_image(some_pixels(4))
        found = match_pairs(ItmScorer(model), texts, images, wanted, lambda: called.append(1))
        listed = match_pairs(ItmScorer(model), texts, list(images), wanted)
        for row, column in zip(*np.nonzero(wanted), strict=True):
            ids = torch.from_numpy(texts[row])[None]
            plain = model.itm_scores(images[column : column + 1], ids, ids != 0)
            assert found[row, column] == pytest.approx(plain.item(), abs=1e-5)
    assert (np.isnan(found) == ~wanted).all()
    np.testing.assert_array_equal(found, listed)
    assert len(called) == 3
