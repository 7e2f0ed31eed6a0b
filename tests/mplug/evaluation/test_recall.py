import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.evaluation.recall import caption_relevance, recall


def test_recall_counts_the_best_ranked_relevant_candidate() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.1, 0.5, 0.9]], dtype=np.float32)
    relevant = np.array([[False, True, False], [False, False, True]])
    found = recall(scores, relevant)
    assert (found.at_1, found.at_5, found.num_queries) == (50.0, 100.0, 2)


def test_a_query_without_anything_relevant_is_a_miss() -> None:
    found = recall(np.ones((1, 20), dtype=np.float32), np.zeros((1, 20), dtype=np.bool_))
    assert found.at_10 == 0.0


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_recall_of_a_permutation_equals_a_plain_count(size: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    scores = chance.permutation(size * size).reshape(size, size).astype(np.float32)
    ranks = [int((row > row[n]).sum()) for n, row in enumerate(scores)]
    found = recall(scores, np.eye(size, dtype=np.bool_))
    assert found.at_5 == pytest.approx(100 * sum(rank < 5 for rank in ranks) / size)


def test_a_picture_with_the_identical_caption_counts_as_right() -> None:
    texts, relevant = caption_relevance([["a dog", "a cat"], ["a dog"]])
    assert texts == ["a dog", "a cat", "a dog"]
    assert relevant.tolist() == [[True, True], [True, False], [True, True]]
