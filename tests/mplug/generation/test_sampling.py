"""Greedy decoding and sampling."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from generation_cases import EOS, Naive, TableDecoder, check_texts
from mplug.generation import GenerationConfig, Token, generate, stream
from mplug.generation.sampling import draw

prompts = st.lists(st.lists(st.integers(3, 11), min_size=1, max_size=4), min_size=1, max_size=4)
configs = st.builds(
    GenerationConfig,
    method=st.sampled_from(["greedy", "sample"]),
    min_length=st.integers(0, 3),
    max_length=st.integers(3, 9),
    temperature=st.sampled_from([1.0, 0.5, 2.0]),
    top_k=st.sampled_from([0, 1, 4, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    no_repeat_ngram_size=st.sampled_from([0, 1, 3]),
)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**20), config=configs, count=st.integers(1, 3), prompts=prompts, data=st.data())
def test_texts_are_the_naive_ones(
    seed: int, config: GenerationConfig, count: int, prompts: list[list[int]], data: st.DataObject
) -> None:
    if config.method == "sample":
        config = dataclasses.replace(config, num_results=count)
    decoder = TableDecoder(12, seed)
    seeds = [data.draw(st.integers(0, 99)) for _ in prompts]
    found = generate(decoder, decoder.start, prompts, config, seeds=seeds)
    for item, (texts, prompt) in enumerate(zip(found, prompts, strict=True)):
        naive = Naive(lambda text, item=item: decoder.logits(item, text), prompt, config)  # type: ignore[misc]
        wanted = naive.generate(seeds[item])
        assume(naive.margin > 1e-5)
        check_texts(texts, wanted)


def test_every_token_is_streamed_as_it_is_drawn() -> None:
    decoder = TableDecoder(12, 0)
    config = GenerationConfig(method="sample", num_results=3, max_length=8)
    texts = [[[5] for _ in range(3)] for _ in range(2)]
    for event in stream(decoder, decoder.start, [[5], [5]], config, seeds=[1, 2]):
        if isinstance(event, Token):
            texts[event.item][event.text].append(event.id)
        else:
            assert [list(one.ids) for one in event.hypotheses] == texts[event.item]


def test_the_first_token_comes_after_the_first_step() -> None:
    decoder = TableDecoder(12, 0)
    assert isinstance(next(stream(decoder, decoder.start, [[5]], GenerationConfig(method="greedy"))), Token)
    assert decoder.steps == 1


def test_seeds_make_texts() -> None:
    decoder = TableDecoder(50, 0)
    config = GenerationConfig(method="sample", max_length=8, num_results=4)
    (one,) = generate(decoder, decoder.start, [[5]], config)
    assert len({text.ids for text in one}) == 4, "an item's texts differ"
    (again,) = generate(decoder, decoder.start, [[5]], config)
    (other,) = generate(decoder, decoder.start, [[5]], config, seeds=[1])
    assert one == again
    assert {text.ids for text in one}.isdisjoint(text.ids for text in other)
    (default,) = generate(decoder, decoder.start, [[5]], dataclasses.replace(config, seed=1))
    assert default == other


def test_draws_follow_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.25, 0.15, 0.1])
    uniforms = [(n + 0.5) / 1000 for n in range(1000)]
    rows = probs.log().repeat(1000, 1)

    def shares(**settings: float) -> list[float]:
        config = GenerationConfig(method="sample", **settings)  # type: ignore[arg-type]
        counts = Counter(draw(rows, uniforms, config).tolist())
        return [counts[token] / 1000 for token in range(4)]

    assert shares() == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.002)
    assert shares(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=0.002)
    assert shares(top_p=0.8) == pytest.approx([5 / 9, 2.5 / 9, 1.5 / 9, 0], abs=0.002), "0.75 is not enough"
    assert shares(top_p=0.7) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=0.002)
    assert shares(top_p=0.1) == [1, 0, 0, 0]
    squares = probs.square() / probs.square().sum()
    assert shares(temperature=0.5) == pytest.approx(squares.tolist(), abs=0.002)


def test_extreme_uniforms_draw_possible_tokens() -> None:
    config = GenerationConfig(method="sample", top_k=2)
    log_probs = torch.tensor([[-1e20, -0.7, -1e20, -0.7, -9.0]] * 2)
    assert draw(log_probs, [0.0, 1 - 2**-53], config).tolist() == [1, 3]


def test_texts_of_an_item_end_each_for_itself() -> None:
    decoder = TableDecoder(8, 3, eos_bonus=2.0)
    config = GenerationConfig(method="sample", num_results=8, max_length=12)
    (texts,) = generate(decoder, decoder.start, [[5]], config)
    assert len({len(text.ids) for text in texts}) > 2
    for text in texts:
        assert EOS not in text.ids[:-1]
        assert text.ids[-1] == EOS or len(text.ids) == 13
