"""A text does not depend on the items that are decoded beside its own."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from generation_cases import Memories, Naive, random_decoder, random_memories, text_logits
from mplug.generation import GenerationConfig, Hypothesis, generate

BATCH = 8
TIE = 1e-5
"""Decisions narrower than this may fall differently in another batch."""
MOST_TIES = 0.001


@dataclasses.dataclass(frozen=True)
class Case:
    """A batch of mixed images and prompts, and how to decode it."""

    memories: Memories
    prompts: list[list[int]]
    seeds: list[int]
    config: GenerationConfig

    def together(self) -> list[tuple[Hypothesis, ...]]:
        return generate(self.memories.decoder, self.memories, self.prompts, self.config, seeds=self.seeds)

    def alone(self, item: int) -> tuple[Hypothesis, ...]:
        mask = None if self.memories.mask is None else self.memories.mask[[item]]
        start = Memories(self.memories.decoder, self.memories.memory[[item]], mask)
        (texts,) = generate(
            self.memories.decoder, start, [self.prompts[item]], self.config, seeds=[self.seeds[item]]
        )
        return texts

    def margin(self, item: int) -> float:
        """How narrow the item's narrowest decision is, in float64."""
        naive = Naive(text_logits(self.memories, item), self.prompts[item], self.config)
        naive.generate(self.seeds[item])
        return naive.margin


def case(number: int, **changes: Any) -> Case:
    rng, generator = random.Random(number), torch.Generator().manual_seed(number)
    decoder = random_decoder(number % 5)
    settings: dict[str, Any] = {
        "method": rng.choice(["beam", "greedy", "sample"]),
        "min_length": rng.randint(0, 3),
        "max_length": rng.randint(4, 16),
        "beam_size": rng.choice([2, 3, 5]),
        "repetition_penalty": rng.choice([1.0, 1.0, 1.2]),
        "no_repeat_ngram_size": rng.choice([0, 0, 2, 3]),
        "top_k": rng.choice([0, 10]),
        "top_p": rng.choice([1.0, 0.9]),
    }
    return Case(
        random_memories(decoder, BATCH, generator, masked=rng.random() < 0.5),
        [[1, *(rng.randrange(3, 50) for _ in range(rng.randrange(6)))] for _ in range(BATCH)],
        [rng.randrange(1000) for _ in range(BATCH)],
        GenerationConfig(**{**settings, **changes}),
    )


def count_ties(numbers: range) -> int:
    """Compare every item with itself alone; where ids differ the margin must be a tie's."""
    ties = 0
    for number in numbers:
        some = case(number)
        for item, texts in enumerate(some.together()):
            alone = some.alone(item)
            if [one.ids for one in texts] != [one.ids for one in alone]:
                assert some.margin(item) < TIE, (number, item)
                ties += 1
            else:
                assert [one.score for one in texts] == pytest.approx([one.score for one in alone], abs=1e-4)
    return ties


def test_a_batch_of_eight_gives_the_texts_of_each_alone() -> None:
    assert count_ties(range(20)) == 0


@pytest.fixture(scope="module")
def ties() -> list[int]:
    """Of the parts of the long test so far."""
    return []


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_two_hundred_batches_of_eight_give_the_texts_of_each_alone(part: int, ties: list[int]) -> None:
    ties.append(count_ties(range(25 * part, 25 * part + 25)))
    assert sum(ties) <= MOST_TIES * 200 * BATCH


@pytest.mark.parametrize("number", range(6))
def test_deterministic_decoding_is_bit_equal(number: int) -> None:
    some = case(number, deterministic=True)
    assert some.together() == [some.alone(item) for item in range(BATCH)]


def test_the_margin_sees_a_tie() -> None:
    some = case(0, method="greedy")
    with torch.no_grad():
        some.memories.decoder.embeddings.word.weight[30:] = some.memories.decoder.embeddings.word.weight[3:23]
        some.memories.decoder.head.bias[30:] = some.memories.decoder.head.bias[3:23]
    assert min(some.margin(item) for item in range(BATCH)) < 1e-12
