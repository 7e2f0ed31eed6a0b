"""The reference's beam search on language models of tables, against the same thing written naively."""

from __future__ import annotations

import dataclasses

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from generation_cases import EOS, Naive, TableDecoder, check_texts
from mplug.generation import Finished, GenerationConfig, Token, generate, stream

configs = st.builds(
    GenerationConfig,
    min_length=st.integers(0, 3),
    max_length=st.integers(3, 9),
    beam_size=st.integers(1, 5),
    length_penalty=st.sampled_from([0.6, 0.0, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 2]),
).map(lambda config: dataclasses.replace(config, num_results=config.beam_size))
prompts = st.lists(st.lists(st.integers(3, 11), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**20), bonus=st.sampled_from([0.0, 2.0]), config=configs, prompts=prompts)
def test_the_search_is_the_naive_one(
    seed: int, bonus: float, config: GenerationConfig, prompts: list[list[int]]
) -> None:
    decoder = TableDecoder(12, seed, eos_bonus=bonus)
    found = generate(decoder, decoder.start, prompts, config)
    for item, (texts, prompt) in enumerate(zip(found, prompts, strict=True)):
        naive = Naive(lambda text, item=item: decoder.logits(item, text), prompt, config)  # type: ignore[misc]
        wanted = naive.generate()
        assume(naive.margin > 1e-5)
        check_texts(texts, wanted)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), bonus=st.sampled_from([0.0, 2.0]), config=configs, prompts=prompts)
def test_the_stream_is_the_best_text(
    seed: int, bonus: float, config: GenerationConfig, prompts: list[list[int]]
) -> None:
    decoder = TableDecoder(12, seed, eos_bonus=bonus)
    texts = [list(prompt) for prompt in prompts]
    finished: set[int] = set()
    for event in stream(decoder, decoder.start, prompts, config):
        assert event.item not in finished, "an item's Finished is its last event"
        if isinstance(event, Token):
            assert event.text == 0
            texts[event.item].append(event.id)
        else:
            finished.add(event.item)
            assert tuple(texts[event.item]) == event.hypotheses[0].ids
    assert finished == set(range(len(prompts)))


def test_tokens_are_streamed_before_the_end() -> None:
    # Beams that agree on their beginning have settled it.
    early = 0
    for seed in range(20):
        decoder = TableDecoder(12, seed)
        events = list(stream(decoder, decoder.start, [[5]], GenerationConfig(beam_size=2, max_length=12)))
        steps = next(len(e.hypotheses[0].ids) for e in events if isinstance(e, Finished))
        iterator = stream(decoder, decoder.start, [[5]], GenerationConfig(beam_size=2, max_length=12))
        before = decoder.steps
        next(iterator)
        early += decoder.steps - before < steps - 2
    assert early > 10


def test_a_beam_may_live_on_behind_its_end() -> None:
    behind = 0
    for seed in range(30):
        decoder = TableDecoder(8, seed, eos_bonus=1.0)
        (texts,) = generate(decoder, decoder.start, [[5]], GenerationConfig(beam_size=4, num_results=4))
        behind += any(EOS in one.ids[1:-1] for one in texts)
    assert behind > 5


def test_a_prompt_may_hold_the_ending_token() -> None:
    decoder = TableDecoder(12, 0)
    (texts,) = generate(decoder, decoder.start, [[5, EOS, 7]], GenerationConfig())
    assert texts[0].ids[:3] == (5, EOS, 7)
    assert len(texts[0].ids) > 3
