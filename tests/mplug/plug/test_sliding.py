"""Generation by windows against its rules written down naively, without cache, batch or stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.plug_cases import tiny_plug
from mplug.errors import MplugError
from mplug.generation import Finished, GenerationConfig, Hypothesis, Token
from mplug.plug import PlugGenerator, sliding, stream_windows
from mplug.text_generator import Prompt

WINDOW, ROOM = 6, 20
SEP = 102


def speaking(seed: int) -> PlugGenerator:
    """A tiny model that likes to say [SEP], and tokens behind its vocabulary."""
    model = tiny_plug(seed=seed, original_vocab_size=140)
    with torch.no_grad():
        words = model.encoder.embeddings.word.weight
        words[SEP] = 1.2 * words[3:60].mean(0) + 0.5 * words[SEP]
        words[150] = words[30] * 1.4
    return model


MODELS = [speaking(seed) for seed in range(4)]
sources = st.lists(st.integers(3, 99), min_size=1, max_size=9).map(lambda middle: [101, *middle, SEP])
batches = st.lists(sources, min_size=1, max_size=3)


@pytest.fixture(autouse=True, scope="module")
def short_windows() -> Iterator[None]:
    """Windows that are soon full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sliding, "WINDOW", WINDOW)
        patch.setattr(sliding, "LONGEST_SOURCE", ROOM)
        yield


@torch.no_grad()
def naively(model: PlugGenerator, source: list[int], out_length: int) -> list[int]:
    """The reference's loop, greedy, every token by the whole model."""
    everything: list[int] = []
    window: list[int] = []
    counter = 0
    while counter < out_length:
        if counter % WINDOW == 0 and counter != 0:
            place = len(source) - 1
            assert source[place] == SEP
            source = [*source[:place], *window, SEP][-ROOM:]
            window = []
        logits = model(torch.tensor([source]), torch.tensor([[101, *window]]))
        token = int(logits[0, -1].argmax())
        token = token if token < model.config.original_vocab_size else 100
        if token == SEP and len(everything) > int(0.8 * out_length):
            everything.append(SEP)
            break
        counter += 1
        if token != SEP:
            everything.append(token)
            window.append(token)
    shown: list[int] = []
    for token in everything:
        if not (token == 100 and shown[-1:] == [100]):
            shown.append(token)
    return shown


def greedy(length: int) -> GenerationConfig:
    return GenerationConfig(method="greedy", min_length=0, max_length=length)


def drawn(length: int, *, alone: bool = False) -> GenerationConfig:
    return GenerationConfig(
        method="sample", min_length=0, max_length=length, top_k=9, temperature=0.9, deterministic=alone
    )


def written(
    model: PlugGenerator, some: Sequence[list[int]], config: GenerationConfig, seeds: list[int] | None = None
) -> list[Hypothesis]:
    """The texts, whose tokens are those that were streamed."""
    streamed: list[list[int]] = [[101] for _ in some]
    finished: dict[int, Hypothesis] = {}
    for event in stream_windows(model, some, config, seeds=seeds):
        assert event.item not in finished
        if isinstance(event, Token):
            streamed[event.item].append(event.id)
        else:
            assert isinstance(event, Finished)
            (finished[event.item],) = event.hypotheses
    texts = [finished[item] for item in range(len(some))]
    assert [list(text.ids) for text in texts] == streamed
    return texts


@settings(max_examples=25, deadline=None)
@given(number=st.integers(0, 3), some=batches, length=st.integers(1, 22))
def test_greedy_texts_are_those_of_the_plain_loop(number: int, some: list[list[int]], length: int) -> None:
    model = MODELS[number]
    texts = written(model, some, greedy(length))
    assert [list(text.ids[1:]) for text in texts] == [naively(model, source, length) for source in some]


def test_the_models_skip_ends_collapse_unknowns_and_slide() -> None:
    """The test above has something to find."""
    seen: set[str] = set()
    for model in MODELS:
        for text in written(
            model, [[101, *range(first, first + 4), SEP] for first in range(3, 33)], greedy(22)
        ):
            steps = len(text.ids) - 1
            seen |= {"unknown"} if 100 in text.ids else set()
            seen |= {"skipped"} if steps < 22 else set()
            seen |= {"slid"} if steps > WINDOW else set()
    assert seen == {"unknown", "skipped", "slid"}


@settings(max_examples=15, deadline=None)
@given(number=st.integers(0, 3), some=batches, length=st.integers(1, 20), alone=st.booleans())
def test_a_drawn_text_does_not_depend_on_its_neighbours(
    number: int, some: list[list[int]], length: int, alone: bool
) -> None:
    model, seeds = MODELS[number], [seed + 5 for seed in range(len(some))]
    together = written(model, some, drawn(length, alone=alone), seeds)
    for source, seed, text in zip(some, seeds, together, strict=True):
        (single,) = written(model, [source], drawn(length), [seed])
        assert text.ids == single.ids
        assert text.score == pytest.approx(single.score, rel=1e-3, abs=1e-6)


def test_seeds_matter_and_repeat() -> None:
    some = [[101, 5, 6, SEP]] * 6
    texts = written(MODELS[0], some, drawn(12), [1, 2, 3, 1, 2, 3])
    assert [text.ids for text in texts[:3]] == [text.ids for text in texts[3:]]
    assert len({text.ids for text in texts}) > 1


def test_a_source_that_grows_keeps_its_end() -> None:
    long = [101, *range(3, 3 + ROOM - 2), SEP]
    (text,) = written(MODELS[1], [long], greedy(20))
    assert list(text.ids[1:]) == naively(MODELS[1], long, 20)


def test_scores_are_sums_of_log_probabilities() -> None:
    model, source = MODELS[2], [101, 8, 9, SEP]
    (text,) = written(model, [source], greedy(3))
    ids = list(text.ids)
    with torch.no_grad():
        log_probs = model(torch.tensor([source]), torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    total = sum(float(row[token]) for row, token in zip(log_probs, ids[1:], strict=True) if token != 100)
    assert 100 not in ids, "the model was chosen so"
    assert text.score == pytest.approx(total / greedy(3).penalty(3), rel=1e-4)
    assert text.score == pytest.approx(sum(text.log_probs) / greedy(3).penalty(3))


def test_every_shown_token_has_its_log_probability() -> None:
    for model in MODELS:
        for text in written(
            model, [[101, *range(first, first + 4), SEP] for first in (3, 9, 20)], greedy(22)
        ):
            assert len(text.ids) == 1 + len(text.log_probs)
            assert all(log_prob < 0 for log_prob in text.log_probs)


def test_a_broken_model_ends_its_texts() -> None:
    model = tiny_plug()
    with torch.no_grad():
        model.decoder.norm.weight.fill_(torch.nan)
    (text,) = written(model, [[101, 5, SEP]], greedy(9))
    assert text.ids == (101,)
    assert text.score != text.score


def test_what_windows_cannot_have_is_refused_before_any_work() -> None:
    model, source = MODELS[0], [101, 5, SEP]
    with pytest.raises(MplugError, match=r"method is 'beam'"):
        stream_windows(model, [source], GenerationConfig(method="beam", min_length=0))
    with pytest.raises(MplugError, match="min_length 1"):
        stream_windows(model, [source], GenerationConfig(method="greedy"))
    with pytest.raises(MplugError, match="2 seeds for 1 sources"):
        stream_windows(model, [source], greedy(3), seeds=[1, 2])
    with pytest.raises(MplugError, match="source 0 has no token 102"):
        stream_windows(model, [[101, 5]], greedy(3))


def test_a_generator_streams_what_it_read() -> None:
    model = MODELS[0]
    prompt = model.read("piece7 piece8")
    events = list(model.stream_windows([prompt], model.window_config(max_length=9), seeds=[3]))
    (text,) = written(model, [[101, 7, 8, SEP]], model.window_config(max_length=9), [3])
    assert events[-1] == Finished(0, (text,))
    assert (
        model.text(text.ids, Prompt((101,))).count("piece") + text.ids.count(100) + text.ids.count(SEP)
        == len(text.ids) - 1
    )
