"""The engine's loop: batches, streams, errors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generation_cases import TableDecoder, TableState, random_decoder, random_memories
from mplug.errors import ConfigError, MplugError
from mplug.generation import (
    Finished,
    GenerationConfig,
    Hypothesis,
    Method,
    decode_steps,
    generate,
    stream,
)

METHODS = ("beam", "greedy", "sample")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    method=st.sampled_from(METHODS),
    prompts=st.lists(st.lists(st.integers(3, 11), min_size=1, max_size=4), min_size=1, max_size=5),
    deterministic=st.booleans(),
)
def test_a_batch_is_its_items(seed: int, method: str, prompts: list[list[int]], deterministic: bool) -> None:
    decoder = TableDecoder(12, seed, eos_bonus=1.5)
    config = GenerationConfig(method=method, deterministic=deterministic)  # type: ignore[arg-type]
    seeds = list(range(len(prompts)))
    together = generate(decoder, decoder.start, prompts, config, seeds=seeds)
    for item, prompt in enumerate(prompts):

        def alone(_: Sequence[int], item: int = item) -> TableState:
            return decoder.start([item])

        assert generate(decoder, alone, [prompt], config, seeds=[seeds[item]]) == [together[item]]


def test_items_finish_as_they_end() -> None:
    decoder = TableDecoder(12, 1, eos_bonus=1.0)
    config = GenerationConfig(method="sample", max_length=20)
    events = list(stream(decoder, decoder.start, [[5]] * 6, config, seeds=range(6)))
    order = [event.item for event in events if isinstance(event, Finished)]
    assert sorted(order) == list(range(6))
    assert order != list(range(6))


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
@pytest.mark.parametrize("steps", [1, 3])
def test_items_that_leave_change_nothing_for_those_that_stay(method: Method, steps: int) -> None:
    decoder = random_decoder(1)
    memories = random_memories(decoder, 4, torch.Generator().manual_seed(3))
    config = GenerationConfig(method=method, min_length=6, max_length=8, beam_size=3)
    prompts, seeds = [[1], [1, 7], [1], [1, 9, 4]], [5, 6, 7, 8]
    whole = generate(decoder, memories, prompts, config, seeds=seeds)
    gone: set[int] = set()
    finished: dict[int, tuple[Hypothesis, ...]] = {}
    some_prompts = dict(enumerate(prompts))
    batches = decode_steps(
        decoder, memories(range(4)), some_prompts, config, seeds, alive=lambda item: item not in gone
    )
    for step, events in enumerate(batches, start=1):
        finished |= {event.item: event.hypotheses for event in events if isinstance(event, Finished)}
        if step == steps:
            gone |= {0, 2}
    assert sorted(finished) == [1, 3]
    for item, texts in finished.items():
        assert [text.ids for text in texts] == [text.ids for text in whole[item]]


def test_a_closed_stream_steps_no_further() -> None:
    decoder = TableDecoder(12, 1, eos_bonus=-9.0)
    iterator = stream(decoder, decoder.start, [[5]], GenerationConfig(method="greedy", max_length=20))
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert decoder.steps == 1


def test_no_items_give_no_texts() -> None:
    decoder = TableDecoder(12, 1)
    for deterministic in (False, True):
        assert generate(decoder, decoder.start, [], GenerationConfig(deterministic=deterministic)) == []


def test_a_text_may_fill_all_positions_and_one_token_more() -> None:
    decoder = TableDecoder(12, 1, eos_bonus=-20, max_positions=9)
    (texts,) = generate(decoder, decoder.start, [[5, 6, 7]], GenerationConfig(max_length=7))
    assert len(texts[0].ids) == 10
    with pytest.raises(MplugError, match=r"item 1 may grow to 10 tokens .*max_length 7.*9 positions"):
        stream(decoder, decoder.start, [[5], [5, 6, 7, 8]], GenerationConfig(max_length=7))


def test_mistakes_are_named_before_any_work() -> None:
    decoder = TableDecoder(4, 1)
    with pytest.raises(MplugError, match="prompt of item 1 is empty"):
        stream(decoder, decoder.start, [[1], []], GenerationConfig(beam_size=2))
    with pytest.raises(MplugError, match="2 seeds for 1 items"):
        stream(decoder, decoder.start, [[1]], GenerationConfig(beam_size=2), seeds=[1, 2])
    with pytest.raises(MplugError, match="beam_size is 5, the vocabulary has 4 tokens"):
        stream(decoder, decoder.start, [[1]], GenerationConfig(beam_size=5))
    assert decoder.steps == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "method is 'magic'; known are beam, greedy, sample"),
        ({"max_length": 0}, "max_length is 0; it must be at least 1"),
        ({"min_length": 11}, r"min_length is 11; it must be 0 to max_length \(10\)"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"num_results": 6}, "num_results is 6; it must be at most 5 with method 'beam'"),
        ({"num_results": 2, "method": "greedy"}, "at most 1 with method 'greedy'"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0, at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**settings)  # type: ignore[arg-type]


def test_the_defaults_are_the_checkpoints_of_modelscope() -> None:
    config = GenerationConfig()
    assert (config.min_length, config.max_length, config.beam_size) == (1, 10, 5)
    assert config.penalty(1) == 1
    assert config.penalty(7) == pytest.approx(2**0.6)
