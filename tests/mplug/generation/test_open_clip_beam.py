"""open_clip's beam search on language models of tables, against the same thing written naively."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings

from candidate_beams import BONUSES, PROMPTS, SEEDS, candidate_configs, check_search, check_stream
from generation_cases import Naive, TableDecoder
from mplug.errors import ConfigError, MplugError
from mplug.generation import GenerationConfig, Hypothesis, generate, stream

configs = candidate_configs("open_clip")


class NaiveOpenClip(Naive):
    """By the letter of the quirks, in float64, every continuation in one list."""

    def scores(self, text: Sequence[int], generated: int) -> list[float]:
        banned = self.log_probs(text, generated) == -1e20
        logits = self.logits(text).double().clone()
        for token in set(text):
            factor = self.config.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        return [-1e20 if ban else float(logit) for logit, ban in zip(logits, banned, strict=True)]

    def value(self, text: Sequence[int], generated: int, token: int) -> float:
        return self.scores(text, generated)[token]

    def beam_search(self) -> list[Hypothesis]:
        size, power = self.config.beam_size, self.config.length_penalty
        beams: list[tuple[list[int], float]] = [(list(self.prompt), 0.0)]
        stored: list[Hypothesis] = []
        for step in range(self.config.max_length):
            longer = [
                ([*text, token], total + score)
                for text, total in beams
                for token, score in enumerate(self.scores(text, step))
            ]
            longer.sort(key=lambda one: -one[1])
            self.decided([total for _, total in longer[: 2 * size + 1]])
            length = len(longer[0][0])
            for text, total in longer[:size]:
                if text[-1] == self.eos_id:
                    stored = self.store(stored, self.scored(text, total / length**power))
            beams = [one for one in longer[: 2 * size] if one[0][-1] != self.eos_id][:size]
            attainable = longer[0][1] / length**power
            if len(stored) == size and self.beats(min(one.score for one in stored), attainable):
                return self.ordered(stored)
        for text, total in beams:
            stored = self.store(stored, self.scored(text, total / len(text) ** power))
        return self.ordered(stored)

    def store(self, stored: list[Hypothesis], one: Hypothesis) -> list[Hypothesis]:
        best = self.ordered([*stored, one])
        return [each for each in [*stored, one] if each in best[: self.config.beam_size]]

    def beats(self, score: float, other: float) -> bool:
        if score != other:
            self.decided([max(score, other), min(score, other)])
        return score >= other

    def ordered(self, stored: list[Hypothesis]) -> list[Hypothesis]:
        best = sorted(stored, key=lambda one: -one.score)
        self.decided([one.score for one in best])
        return best


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, bonus=BONUSES, config=configs, prompts=PROMPTS)
def test_the_search_is_the_naive_one(
    seed: int, bonus: float, config: GenerationConfig, prompts: list[list[int]]
) -> None:
    check_search(NaiveOpenClip, TableDecoder(12, seed, eos_bonus=bonus), config, prompts)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, bonus=BONUSES, config=configs, prompts=PROMPTS)
def test_the_stream_is_the_best_text(
    seed: int, bonus: float, config: GenerationConfig, prompts: list[list[int]]
) -> None:
    check_stream(TableDecoder(12, seed, eos_bonus=bonus), config, prompts)


def test_tokens_are_streamed_before_the_end() -> None:
    early = 0
    for seed in range(20):
        decoder = TableDecoder(12, seed)
        config = GenerationConfig(rules="open_clip", beam_size=2, max_length=12)
        steps = [decoder.steps for _ in stream(decoder, decoder.start, [[5]], config)]
        early += steps[0] < steps[-1] - 2
    assert early > 10


def test_items_end_by_themselves_and_leave_the_others_alone() -> None:
    config = GenerationConfig(rules="open_clip", beam_size=3, max_length=12, num_results=3)
    decoder = TableDecoder(12, 3, eos_bonus=3.0)
    prompts = [[5], [6, 7], [8], [9, 10, 11]]
    together = generate(decoder, decoder.start, prompts, config)
    lengths = {len(best.ids) - len(prompt) for (best, *_), prompt in zip(together, prompts, strict=True)}
    assert len(lengths) > 1
    for item, prompt in enumerate(prompts):
        (alone,) = generate(decoder, lambda _, item=item: decoder.start([item]), [prompt], config)  # type: ignore[misc]
        assert alone == together[item]


def test_what_the_search_cannot_do_is_named() -> None:
    decoder = TableDecoder(7, 0)
    generate(decoder, decoder.start, [[5]], GenerationConfig(rules="open_clip", beam_size=3))
    with pytest.raises(MplugError, match="beam_size is 4, the vocabulary has 7 tokens"):
        generate(decoder, decoder.start, [[5]], GenerationConfig(rules="open_clip", beam_size=4))
    with pytest.raises(ConfigError, match="rules is 'textbook'; known are mplug, open_clip"):
        GenerationConfig(rules="textbook")  # type: ignore[arg-type]


def test_the_penalty_is_the_rules_own() -> None:
    assert GenerationConfig(rules="open_clip", length_penalty=2.0).penalty(7) == 49
    assert GenerationConfig(length_penalty=1.0).penalty(7) == 2
