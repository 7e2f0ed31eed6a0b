from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from mplug.evaluation.cider import CiderReward

WORDS = st.lists(st.sampled_from("abcdefg"), max_size=9)
# pycocoevalcap fails where no reference has a word.
REFERENCES = st.lists(WORDS, min_size=1, max_size=4).filter(any)
CORPORA = st.lists(st.tuples(WORDS, REFERENCES), min_size=1, max_size=5)


@given(CORPORA)
def test_equals_pycocoevalcap_on_the_same_tokens(corpus: list[tuple[list[str], list[list[str]]]]) -> None:
    references = {str(number): texts for number, (_, texts) in enumerate(corpus)}
    candidates = {str(number): words for number, (words, _) in enumerate(corpus)}
    mean, each = Cider().compute_score(
        {id: [" ".join(text) for text in texts] for id, texts in references.items()},
        {id: [" ".join(words)] for id, words in candidates.items()},
    )
    ours = CiderReward(references).scores(list(candidates), list(candidates.values()))
    np.testing.assert_allclose(ours, each, atol=1e-6)
    assert ours.mean() == pytest.approx(mean, abs=1e-6)


def test_a_value_by_hand() -> None:
    # Of three pictures one is a dog and one runs: both words are worth log(3), "a" is in all and worth nothing.
    reward = CiderReward({"1": [["a", "dog"]], "2": [["a", "cat", "runs"]], "3": [["a"]]})
    # Candidate "dog runs": one word of two is right, cosine 1/sqrt(2); no other n-gram is shared; equal lengths.
    assert reward.score("1", ["dog", "runs"]) == pytest.approx(10 / 4 / math.sqrt(2))
    # One bigram more: the length penalty of sigma 6.
    longer = 10 / 4 / math.sqrt(2) * math.exp(-1 / 72)
    assert reward.score("1", ["dog", "a", "runs"]) == pytest.approx(longer)


def test_the_reference_itself_comes_to_ten_and_repeating_it_does_not_help() -> None:
    reward = CiderReward({"1": [[5, 6, 7, 8]], "2": [[9, 3, 4, 1]]})
    assert reward.score("1", [5, 6, 7, 8]) == pytest.approx(10)
    assert reward.score("1", [5, 6, 7, 8] * 2) < 10
    assert reward.score("2", [5, 6, 7, 8]) == 0


@given(CORPORA, st.data())
def test_a_batch_is_its_candidates_one_by_one(
    corpus: list[tuple[list[str], list[list[str]]]], data: st.DataObject
) -> None:
    reward = CiderReward({str(number): texts for number, (_, texts) in enumerate(corpus)})
    ids = data.draw(st.lists(st.sampled_from([str(n) for n in range(len(corpus))]), max_size=6))
    beams = [data.draw(WORDS) for _ in ids]
    alone = [reward.score(id, words) for id, words in zip(ids, beams, strict=True)]
    assert reward.scores(ids, beams).tolist() == alone


def test_pictures_without_references_are_refused() -> None:
    with pytest.raises(ValueError, match="'2' has no references"):
        CiderReward({"1": [["a"]], "2": []})
    with pytest.raises(KeyError):
        CiderReward({"1": [["a"]]}).score("3", ["a"])
