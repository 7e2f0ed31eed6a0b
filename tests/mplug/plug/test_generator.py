"""Text in and out, settings, steps against the whole, batches and streams."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generator_runs import METHODS, check_neighbours, check_stream, config_of, prompts_of, written
from golden.mplug_cases import small_vocab
from golden.plug_cases import tiny_plug
from mplug import freeze
from mplug.decoder_state import DecoderState
from mplug.errors import ConfigError
from mplug.plug import PlugGenerator
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_generator import Prompt, TextGenerator

MODELS = {True: tiny_plug(), False: tiny_plug(pre_norm=False)}
MODEL = MODELS[True]
TOLERANCE = 1e-5

sources = st.lists(st.integers(3, 149), min_size=1, max_size=9)
texts = st.lists(st.integers(3, 149), min_size=2, max_size=8)
methods = st.sampled_from(METHODS)


def relative_error(ours: Tensor, wanted: Tensor) -> float:
    assert ours.shape == wanted.shape
    return float((ours - wanted).abs().max() / wanted.abs().max())


def padded(rows: Sequence[Sequence[int]], *, more: int = 0) -> Tensor:
    longest = max(map(len, rows)) + more
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


@settings(max_examples=15, deadline=None)
@given(
    some=st.lists(sources, min_size=1, max_size=3), text=texts, more=st.integers(0, 3), pre_norm=st.booleans()
)
@torch.no_grad()
def test_steps_give_the_numbers_of_the_whole(
    some: list[list[int]], text: list[int], more: int, pre_norm: bool
) -> None:
    model = MODELS[pre_norm]
    source, ids = padded(some, more=more), torch.tensor([text] * len(some))
    whole = model(source, ids)
    state = model.start_decoding(source)
    at_once = min(3, len(text))
    logits = [model.decoder.step(ids[:, :at_once], state)]
    logits += [model.decoder.step(ids[:, [place]], state) for place in range(at_once, len(text))]
    for place, found in enumerate(logits, start=at_once - 1):
        assert relative_error(found, whole[:, place]) < TOLERANCE


@settings(max_examples=15, deadline=None)
@given(source=sources, text=texts, neighbour=sources, more=st.integers(0, 4), pre_norm=st.booleans())
@torch.no_grad()
def test_padding_and_neighbours_do_not_matter(
    source: list[int], text: list[int], neighbour: list[int], more: int, pre_norm: bool
) -> None:
    model = MODELS[pre_norm]
    alone = model(torch.tensor([source]), torch.tensor([text]))[0]
    together = model(padded([source, neighbour], more=more), padded([text, [*text, 7, 8]], more=more))
    assert relative_error(together[0, : len(text)], alone) < TOLERANCE


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(sources, min_size=2, max_size=4), method=methods)
def test_a_text_does_not_depend_on_its_neighbours(rows: list[list[int]], method: str) -> None:
    check_neighbours(MODEL, prompts_of(rows), config_of(MODEL, method))


@settings(max_examples=9, deadline=None)
@given(rows=st.lists(sources, min_size=2, max_size=4), method=methods)
def test_the_stream_is_the_batch(rows: list[list[int]], method: str) -> None:
    check_stream(MODEL, prompts_of(rows), config_of(MODEL, method))


def test_scores_are_log_probabilities() -> None:
    source, ids, targets = (
        torch.tensor([[101, 5, 102]]),
        torch.tensor([[101, 6, 7]]),
        torch.tensor([[6, 7, 8]]),
    )
    with torch.no_grad():
        wanted = MODEL(source, ids).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    found = MODEL.decoder.score(ids, MODEL.start_decoding(source), targets)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_it_is_a_text_generator() -> None:
    generator: TextGenerator[DecoderState] = MODEL
    prompt = generator.read("piece7[SEP]piece9")
    assert prompt == Prompt((101,), (101, 7, 102, 9, 102))
    assert generator.read("piece7 " * 15).truncated
    assert generator.name == "tiny"


def test_what_is_shown_of_a_text() -> None:
    vocab = small_vocab(150)
    vocab[4:8] = ["春", "风", "。", "##ing"]
    model = PlugGenerator(MODEL.config, WordPieceTokenizer(vocab, max_length=16))
    prompt = model.read("春风")
    assert prompt.source == (101, 4, 5, 102)
    # The vocabulary's 150 tokens are followed by rows of the table that stand for none.
    assert model.text([101, 100, 4, 5, 6, 20, 7, 155, 0, 102], prompt) == "“春风。piece20ing“"


def test_settings_are_the_reference_s_and_give_way() -> None:
    own = MODEL.generation_config()
    assert (own.method, own.top_k, own.top_p, own.temperature, own.max_length) == (
        "sample",
        20,
        1.0,
        0.9,
        128,
    )
    nucleus = MODEL.generation_config(top_p=0.5)
    assert (nucleus.top_k, nucleus.top_p) == (0, 0.5)
    beams = MODEL.generation_config(method="beam")
    assert (beams.beam_size, beams.min_length, beams.max_length, beams.length_penalty) == (5, 5, 384, 0.6)
    assert MODEL.generation_config(method="beam", max_length=3).min_length == 3
    assert MODEL.window_config().min_length == 0
    with pytest.raises(ConfigError, match="unknown among out_length"):
        MODEL.generation_config(out_length=1)


def test_heads_are_held_where_they_are_wanted() -> None:
    assert MODEL.heads is None
    with_heads = tiny_plug(pretraining=True)
    assert with_heads.heads is not None
    assert with_heads.num_parameters > MODEL.num_parameters
    source, text = torch.tensor([[101, 5, 102]]), torch.tensor([[101, 6, 102]])
    loss = with_heads.loss(source, text)
    loss.backward()  # type: ignore[no-untyped-call]
    without = {name.split(".")[0] for name, each in with_heads.named_parameters() if each.grad is None}
    assert without == {"heads"}


def test_padding_is_learnt_once_behind_a_shorter_text() -> None:
    source = torch.tensor([[101, 5, 102]])
    text = torch.tensor([[101, 6, 102, 0, 0]])
    with torch.no_grad():
        log_probs = MODEL(source, text[:, :-1])[0].log_softmax(-1)
        wanted = -(log_probs[0, 6] + log_probs[1, 102] + log_probs[2, 0]) / 3
        assert MODEL.loss(source, text).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_frozen_model_writes_the_same() -> None:
    model = tiny_plug(seed=3)
    some, config = prompts_of([[5, 6], [7, 8, 9]]), config_of(model, "greedy")
    before = written(model, some, config, [0, 0])
    freeze(model)
    after = written(model, some, config, [0, 0])
    assert [one.ids for (one,) in after] == [one.ids for (one,) in before]
