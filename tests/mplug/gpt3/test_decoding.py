"""Step by step, in batches, in streams: the numbers and the texts are those of a text alone and whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generator_runs import METHODS, check_neighbours, check_stream, config_of, written
from golden.gpt3_cases import tiny_generator
from mplug import freeze
from mplug.decoder_state import DecoderState
from mplug.generation import Finished, stream
from mplug.text_generator import Prompt, TextGenerator

GENERATORS = {layout: tiny_generator(layout) for layout in ("plain", "distributed")}
DECODER = GENERATORS["distributed"].decoder
GENERATOR = GENERATORS["distributed"]
PROMPTS = [Prompt(ids) for ids in ((5,), (6, 7, 8), (9, 10, 11, 12, 13, 14, 15), (20, 21))]

prompts = st.lists(
    st.lists(st.integers(4, 399), min_size=1, max_size=7).map(lambda ids: Prompt(tuple(ids))),
    min_size=2,
    max_size=4,
)
methods = st.sampled_from(METHODS)


@pytest.mark.parametrize("layout", ["plain", "distributed"])
def test_steps_give_the_numbers_of_the_whole_text(layout: str) -> None:
    decoder = GENERATORS[layout].decoder
    ids_BL = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17, 18]])
    with torch.no_grad():
        whole_BLV = decoder(ids_BL)
    state = decoder.start(2)
    logits = [decoder.step(ids_BL[:, :3], state)]
    logits += [decoder.step(ids_BL[:, place : place + 1], state) for place in range(3, 7)]
    for place, found in enumerate(logits, start=2):
        assert torch.allclose(found, whole_BLV[:, place], rtol=1e-4, atol=1e-5)


def test_a_text_s_numbers_do_not_depend_on_what_follows() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        whole, part = DECODER(ids), DECODER(ids[:, :3])
    assert torch.allclose(whole[:, :3], part, atol=1e-5)
    assert not torch.allclose(whole[:, 4], part[:, 2])


def test_scores_are_log_probabilities() -> None:
    ids, targets = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[6, 7, 8], [9, 10, 0]])
    with torch.no_grad():
        wanted = DECODER(ids).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    found = DECODER.score(ids, DECODER.start(2), targets, lengths_S=torch.tensor([3, 2]))
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    assert torch.allclose(found[1, :2], wanted[1, :2], atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(some=prompts, method=methods)
def test_a_text_does_not_depend_on_its_neighbours(some: list[Prompt], method: str) -> None:
    check_neighbours(GENERATOR, some, config_of(GENERATOR, method))


@settings(max_examples=9, deadline=None)
@given(some=prompts, method=methods)
def test_the_stream_is_the_batch(some: list[Prompt], method: str) -> None:
    check_stream(GENERATOR, some, config_of(GENERATOR, method))


def test_deterministic_decoding_is_bit_equal() -> None:
    config = config_of(GENERATOR, "sample", deterministic=True)
    together = written(GENERATOR, PROMPTS, config, [1, 2, 3, 4])
    alone = [written(GENERATOR, [prompt], config, [seed + 1])[0] for seed, prompt in enumerate(PROMPTS)]
    assert together == alone


def test_a_frozen_model_writes_the_same() -> None:
    generator = tiny_generator(seed=3)
    config = config_of(generator, "greedy")
    before = written(generator, PROMPTS, config, [0] * 4)
    state = {name: tensor.clone() for name, tensor in generator.decoder.state_dict().items()}

    freeze(generator)

    after = written(generator, PROMPTS, config, [0] * 4)
    assert [one.ids for (one,) in after] == [one.ids for (one,) in before]
    kept = generator.decoder.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], kept[name]) for name in state)


def test_bfloat16_decodes() -> None:
    decoder = tiny_generator(seed=3).decoder.to(torch.bfloat16)
    state = decoder.start(1)
    assert state.cache_TC2SHK.dtype == torch.bfloat16
    logits = decoder.step(torch.tensor([[5, 6, 7]]), state)
    exact = tiny_generator(seed=3).decoder
    wanted = exact.step(torch.tensor([[5, 6, 7]]), exact.start(1))
    assert torch.nn.functional.cosine_similarity(logits.float(), wanted).item() > 0.99


def test_texts_longer_than_the_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="a sequence is 49 tokens long; this decoder has 48 positions"):
        DECODER(torch.ones(1, 49, dtype=torch.int64))
    state = DECODER.start(1)
    DECODER.step(torch.ones(1, 48, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="49 tokens long"):
        DECODER.step(torch.ones(1, 1, dtype=torch.int64), state)


def test_it_is_a_text_generator() -> None:
    generator: TextGenerator[DecoderState] = GENERATOR
    prompt = generator.read("今天")
    config = generator.generation_config(method="greedy", max_length=3)
    events = list(stream(generator.decoder, lambda items: generator.start([prompt]), [prompt.first], config))
    (last,) = (event for event in events if isinstance(event, Finished))
    assert isinstance(generator.text(last.hypotheses[0].ids, Prompt(prompt.first)), str)
    assert generator.name == "tiny"


def test_gradients_reach_every_parameter() -> None:
    decoder = tiny_generator(seed=1).decoder
    decoder(torch.tensor([[5, 6, 7]])).logsumexp(-1).sum().backward()
    without = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    assert without == []
