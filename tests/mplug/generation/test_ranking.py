"""Ranking of given answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generation_cases import golden_decoder, random_decoder, random_memories
from golden.mplug_cases import GOLDEN
from mplug.errors import MplugError
from mplug.generation import rank_answers

DECODER = random_decoder(7)


@pytest.mark.parametrize("k", [2, 4])
def test_ranks_are_the_reference_ones(k: int, tmp_path: Path) -> None:
    golden = golden_decoder("vqa_large", tmp_path / "vqa_large")
    stored = json.loads((GOLDEN / "mplug" / "vqa_large_rank_answer.json").read_text())[f"k{k}"]
    io = golden.case.io
    answers = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(io["rank_candidate_ids"], io["rank_candidate_mask"], strict=True)
    ]

    found = rank_answers(golden.decoder, golden.start, answers, num_items=2, k=k)

    assert [[one.index for one in ranked] for ranked in found] == stored["topk_answer_index"]
    for ranked, probabilities, likelihoods in zip(
        found, stored["topk_probs"], io["rank_log_likelihood"], strict=True
    ):
        assert [one.probability for one in ranked] == pytest.approx(probabilities, rel=1e-5, abs=1e-9)
        for one in ranked:
            assert one.log_likelihood == pytest.approx(float(likelihoods[one.index]), rel=1e-5)


answers_of = st.lists(
    st.lists(st.integers(3, 49), min_size=1, max_size=5).map(lambda rest: [1, *rest]), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(answers=answers_of, k=st.integers(1, 9), masked=st.booleans())
def test_ranks_are_those_of_teacher_forcing(answers: list[list[int]], k: int, masked: bool) -> None:
    memories = random_memories(DECODER, 2, torch.Generator().manual_seed(len(answers)), masked=masked)
    found = rank_answers(DECODER, memories, answers, num_items=2, k=k)
    for item, ranked in enumerate(found):
        mask = None if memories.mask is None else memories.mask[[item]]
        likelihoods, firsts = [], []
        for answer in answers:
            with torch.no_grad():
                logits = DECODER(torch.tensor([answer]), memories.memory[[item]], memory_mask_BN=mask)
            each = logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(answer[1:])[:, None])[:, 0]
            likelihoods.append(float(each.sum()))
            firsts.append(float(each[0]))
        kept = {one.index for one in ranked}
        assert len(kept) == len(ranked) == min(k, len(answers))
        left = [firsts[index] for index in range(len(answers)) if index not in kept]
        assert max(left, default=-1e9) <= min(firsts[index] for index in kept) + 1e-5
        scores = torch.tensor([firsts[one.index] + likelihoods[one.index] for one in ranked])
        assert [one.log_likelihood for one in ranked] == pytest.approx(
            [likelihoods[one.index] for one in ranked], abs=1e-4
        )
        assert [one.probability for one in ranked] == pytest.approx(scores.softmax(0).tolist(), abs=1e-4)
        probabilities = [one.probability for one in ranked]
        assert probabilities == sorted(probabilities, reverse=True)


def test_of_answers_that_start_alike_the_earlier_ones_are_kept() -> None:
    memories = random_memories(DECODER, 1, torch.Generator().manual_seed(0))
    (ranked,) = rank_answers(DECODER, memories, [[1, 9, n] for n in range(3, 9)], num_items=1, k=3)
    assert {one.index for one in ranked} == {0, 1, 2}


@pytest.mark.parametrize(
    ("answers", "k", "message"),
    [
        ([], 1, "no answers to rank"),
        ([[1, 5]], 0, "k is 0"),
        ([[1, 5], [1]], 1, "answer 1 has 1 tokens; with the starting one it must have 2 to 41"),
        ([[1, *[5] * 41]], 1, "answer 0 has 42 tokens"),
        ([[1, 5], [2, 5]], 1, "answer 1 starts with token 2, answer 0 with 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(answers: list[list[int]], k: int, message: str) -> None:
    memories = random_memories(DECODER, 1, torch.Generator().manual_seed(0))
    with pytest.raises(MplugError, match=message):
        rank_answers(DECODER, memories, answers, num_items=1, k=k)


def test_the_longest_answer_fits() -> None:
    memories = random_memories(DECODER, 1, torch.Generator().manual_seed(0))
    (ranked,) = rank_answers(DECODER, memories, [[1, *[5] * 40], [1, 6]], num_items=1)
    assert len(ranked) == 2
