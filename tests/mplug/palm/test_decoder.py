"""Steps against the whole, padding, and the reference's way with [PAD]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden.palm_cases import tiny_palm
from mplug.palm import PalmDecoder, PalmGenerator
from mplug.palm.decoder import sinusoids

MODELS = {"zh_bert": tiny_palm(), "roberta": tiny_palm(roberta=True)}
TOLERANCE = 1e-5

sources = st.lists(st.integers(4, 129), min_size=1, max_size=9)
texts = st.lists(st.integers(4, 129), min_size=2, max_size=8)


def relative_error(ours: Tensor, wanted: Tensor) -> float:
    assert ours.shape == wanted.shape
    return float((ours - wanted).abs().max() / wanted.abs().max())


def padded(rows: Sequence[Sequence[int]], pad_id: int, *, more: int = 0) -> Tensor:
    longest = max(map(len, rows)) + more
    return torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(some=st.lists(sources, min_size=1, max_size=3), text=texts, more=st.integers(0, 3))
@torch.no_grad()
def test_steps_give_the_numbers_of_the_whole(
    name: str, some: list[list[int]], text: list[int], more: int
) -> None:
    model = MODELS[name]
    source, ids = padded(some, model.decoder.pad_id, more=more), torch.tensor([text] * len(some))
    whole = model(source, ids)
    state = model.start_decoding(source)
    at_once = min(3, len(text))
    logits = [model.decoder.step(ids[:, :at_once], state)]
    logits += [model.decoder.step(ids[:, [place]], state) for place in range(at_once, len(text))]
    for place, found in enumerate(logits, start=at_once - 1):
        assert relative_error(found, whole[:, place]) < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(source=sources, text=texts, neighbour=sources, more=st.integers(0, 4))
@torch.no_grad()
def test_padding_and_neighbours_do_not_matter(
    name: str, source: list[int], text: list[int], neighbour: list[int], more: int
) -> None:
    model = MODELS[name]
    pad_id = model.decoder.pad_id
    alone = model(torch.tensor([source]), torch.tensor([text]))[0]
    both = padded([source, neighbour], pad_id, more=more)
    together = model(both, padded([text, [*text, 7, 8]], pad_id, more=more))
    assert relative_error(together[0, : len(text)], alone) < TOLERANCE


def attended_alike(decoder: PalmDecoder, layer: int, states: list[Tensor]) -> Tensor:
    """What self-attention gives a token that sees all so far alike: the mean of the values."""
    block: Any = decoder.layers[layer]
    mean = torch.stack([block.attention.value(block.attention_norm(state)) for state in states]).mean(0)
    output: Tensor = block.attention.output(mean)
    return output


@torch.no_grad()
def reference_step(model: PalmGenerator, source: Tensor, text: list[int]) -> Tensor:
    """Logits behind a text, token by token as the reference's cached loop, with scores masked by a number."""
    decoder, memory = model.decoder, model.encode(source)[0]
    seen: list[list[Tensor]] = [[] for _ in decoder.layers]
    x = memory.new_empty(32)
    for place, token in enumerate(text):
        x = decoder.word.weight[token] * math.sqrt(32) + sinusoids(torch.tensor(place), 32)
        for number, layer in enumerate(decoder.layers):
            block: Any = layer  # its parts are called by name
            seen[number].append(x)
            if token == decoder.pad_id:
                x = x + attended_alike(decoder, number, seen[number])
            else:
                x = x + block.attention(block.attention_norm(torch.stack(seen[number]))[None])[0, -1]
            crossed = block.cross_attention(block.cross_attention_norm(x)[None, None], memory_BND=memory)
            x = x + crossed[0, 0]
            x = x + block.feed_forward(block.feed_forward_norm(x)[None, None])[0, 0]
    return decoder.logits(decoder.norm(x))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(source=sources, text=texts, places=st.sets(st.integers(1, 7), max_size=3))
def test_a_padding_that_is_gone_on_from_sees_all_alike(
    name: str, source: list[int], text: list[int], places: set[int]
) -> None:
    model = MODELS[name]
    pad_id = model.decoder.pad_id
    text = [pad_id if place in places else token for place, token in enumerate(text)]
    given_source = torch.tensor([source])
    state = model.start_decoding(given_source)
    logits = [model.decoder.step(torch.tensor([[token]]), state) for token in text]
    assert relative_error(logits[-1][0], reference_step(model, given_source, text)) < 5e-5


def test_a_neighbour_s_padding_changes_nothing_but_rounding() -> None:
    model = MODELS["zh_bert"]
    source = torch.tensor([[101, 5, 6, 102], [101, 7, 8, 102]])
    state, alone = model.start_decoding(source), model.start_decoding(source[:1])
    for first, second in ((101, 101), (9, 0), (10, 11)):
        both = model.decoder.step(torch.tensor([[first], [second]]), state)
        one = model.decoder.step(torch.tensor([[first]]), alone)
        assert relative_error(both[:1], one) < TOLERANCE


def test_in_bfloat16_and_float16_a_padding_gives_numbers() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = tiny_palm(seed=1).to(dtype)
        state = model.start_decoding(torch.tensor([[101, 5, 6, 102]]))
        for token in (101, 0, 7):
            logits = model.decoder.step(torch.tensor([[token]]), state)
            assert logits.dtype == dtype
            assert bool(logits.isfinite().all())


def test_positions_are_vaswani_s() -> None:
    table = sinusoids(torch.tensor([[0, 3]]), 8)
    assert table.shape == (1, 2, 8)
    wanted = [function(3 / 10000 ** (2 * i / 8)) for i in range(4) for function in (math.sin, math.cos)]
    assert table[0, 1].tolist() == pytest.approx(wanted, rel=1e-6)
    assert table[0, 0].tolist() == [0, 1] * 4


def test_roberta_s_sources_begin_behind_the_number_of_padding() -> None:
    model = MODELS["roberta"]
    ids = torch.tensor([[5, 6]])
    embeddings = model.encoder.embeddings
    words = embeddings.word(ids) + embeddings.token_type.weight[0] + embeddings.position.weight[[2, 3]]
    assert torch.equal(embeddings(ids), embeddings.norm(words))
    with pytest.raises(ValueError, match=r"39 tokens long; this encoder has 38 positions"):
        model.encoder(torch.ones(1, 39, dtype=torch.int64), torch.ones(1, 39))


def test_texts_longer_than_the_positions_are_refused() -> None:
    model = MODELS["zh_bert"]
    with pytest.raises(ValueError, match="65 tokens long; this decoder has 64 positions"):
        model(torch.tensor([[101, 102]]), torch.ones(1, 65, dtype=torch.int64))


def test_gradients_reach_every_parameter() -> None:
    model = tiny_palm(seed=2)
    model.loss(torch.tensor([[101, 5, 102]]), torch.tensor([[101, 6, 7, 102]])).backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
