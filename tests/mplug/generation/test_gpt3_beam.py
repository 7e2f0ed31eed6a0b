"""GPT-3's beam search on language models of tables, against the same thing written naively."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from candidate_beams import BONUSES, PROMPTS, SEEDS, candidate_configs, check_search, check_stream
from generation_cases import Naive, TableDecoder
from mplug.generation import GenerationConfig, Hypothesis, generate

configs = candidate_configs("gpt3")


class NaiveGpt3(Naive):
    """By the letter of the quirks, in float64, every continuation in one list."""

    def beam_search(self) -> list[Hypothesis]:
        size, power = self.config.beam_size, self.config.length_penalty
        full = (len(self.prompt) + self.config.max_length) ** power
        beams: list[tuple[list[int], float]] = [(list(self.prompt), 0.0)]
        stored: list[Hypothesis] = []
        for step in range(self.config.max_length):
            longer = [
                ([*text, token], total + float(log_prob))
                for text, total in beams
                for token, log_prob in enumerate(self.log_probs(text, step))
            ]
            longer.sort(key=lambda one: -one[1])
            self.decided([total for _, total in longer[: 2 * size + 1]])
            for text, total in longer[:size]:
                if text[-1] == self.eos_id:
                    stored = self.best([*stored, self.scored(text, total / full)])
            attainable = longer[0][1] / (step + 1) ** power
            if len(stored) == size and self.reaches(min(one.score for one in stored), attainable):
                return self.best(stored)
            beams = [one for one in longer[: 2 * size] if one[0][-1] != self.eos_id][:size]
        for text, total in beams:
            stored = self.best([*stored, self.scored(text, total / full)])
        return stored

    def best(self, stored: list[Hypothesis]) -> list[Hypothesis]:
        ordered = sorted(stored, key=lambda one: -one.score)
        self.decided([one.score for one in ordered])
        return ordered[: self.config.beam_size]

    def reaches(self, score: float, other: float) -> bool:
        if score != other:
            self.decided([max(score, other), min(score, other)])
        return score >= other


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, bonus=BONUSES, config=configs, prompts=PROMPTS)
def test_the_search_is_the_naive_one(
    seed: int, bonus: float, config: GenerationConfig, prompts: list[list[int]]
) -> None:
    check_search(NaiveGpt3, TableDecoder(12, seed, eos_bonus=bonus), config, prompts)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, bonus=BONUSES, config=configs, prompts=PROMPTS)
def test_the_stream_is_the_best_text(
    seed: int, bonus: float, config: GenerationConfig, prompts: list[list[int]]
) -> None:
    check_stream(TableDecoder(12, seed, eos_bonus=bonus), config, prompts)


def test_scores_are_by_the_full_length_wherever_a_text_ends() -> None:
    config = GenerationConfig(rules="gpt3", beam_size=3, num_results=3, max_length=20, length_penalty=1.0)
    decoder = TableDecoder(12, 3, eos_bonus=3.0)
    (texts,) = generate(decoder, decoder.start, [[5, 6]], config)
    assert min(len(one.ids) for one in texts) < 22
    for one in texts:
        total = sum(
            float(decoder.logits(0, one.ids[:place]).log_softmax(0)[one.ids[place]])
            for place in range(2, len(one.ids))
        )
        assert one.score == pytest.approx(total / 22, rel=1e-4)


def test_the_divisors_are_of_the_length_alone() -> None:
    assert GenerationConfig(rules="gpt3", length_penalty=2.0).penalty(7) == 49
    assert GenerationConfig(rules="gpt3", beam_size=4).candidates == 8
