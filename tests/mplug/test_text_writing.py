"""Texts as pipelines and serving want them: stop strings, progress, reasons, and items that come and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from generation_cases import TableState
from generator_runs import config_of, prompts_of
from golden.gpt3_cases import read_gpt3_case, tiny_generator
from golden.palm_cases import read_palm_case, tiny_palm
from golden.plug_cases import read_plug_case, tiny_plug
from mplug import gpt3, palm, plug
from mplug.errors import ConfigError, MplugError
from mplug.generation import GenerationConfig
from mplug.text_generator import Prompt, TextGenerator
from mplug.text_writing import TextWriter, Update, WriteRequest, WrittenText, write

TOLERANCE = 1e-5
PALM, PLUG, GPT3 = tiny_palm(), tiny_plug(), tiny_generator("plain")
GENERATORS: tuple[TextGenerator[Any], ...] = (PALM, PLUG, GPT3)


def play(
    generator: TextGenerator[Any], requests: Sequence[WriteRequest], arrivals: Sequence[int] | None = None
) -> list[Update]:
    """Everything that is told of requests, each admitted before a step."""
    writer = TextWriter(generator)
    updates: list[Update] = []
    arrivals = arrivals or [0] * len(requests)
    step = 0
    while writer.live or step <= max(arrivals):
        some = {item: requests[item] for item, arrival in enumerate(arrivals) if arrival == step}
        updates += writer.admit(some) + writer.step()
        step += 1
    return updates


def finished(updates: Sequence[Update]) -> dict[int, tuple[WrittenText, ...]]:
    return {update.item: update.finished for update in updates if update.finished is not None}


def ids_of(
    generator: TextGenerator[Any], prompts: Sequence[Prompt], config: GenerationConfig
) -> list[list[list[int]]]:
    """What is generated of prompts that come one after the other."""
    requests = [WriteRequest(prompt, config) for prompt in prompts]
    texts = finished(play(generator, requests, list(range(len(prompts)))))
    lengths = [len(prompt.first) for prompt in prompts]
    return [[list(one.token_ids[length:]) for one in texts[item]] for item, length in enumerate(lengths)]


# --- The reference's ids


def test_gpt3_writes_the_reference_s_texts(tmp_path: Path) -> None:
    case = read_gpt3_case("base")
    generator = gpt3.load(case.write(tmp_path))
    prompts = [Prompt(tuple(ids)) for ids in case.io["input_ids"].tolist()]
    found = ids_of(generator, prompts, generator.generation_config(method="greedy", max_length=9))
    stored = [ids[len(prompts[0].first) :] for ids in case.generation["greedy"]]
    assert [text for (text,) in found] == stored


@pytest.mark.parametrize("setting", ["default", "beam5", "greedy"])
def test_palm_writes_the_reference_s_texts(setting: str, tmp_path: Path) -> None:
    case = read_palm_case("zh_bert")
    generator = palm.load(case.write(tmp_path / "zh_bert"))
    stored = case.described["generation"][setting]
    rows = zip(case.io["src"].tolist(), case.io["src_mask"].sum(1).tolist(), strict=True)
    prompts = [Prompt((generator.decoder.bos_id,), tuple(ids[:length])) for ids, length in rows]
    changes = {name: stored[name] for name in ("beam_size", "min_length", "max_length")}
    config = generator.generation_config(length_penalty=stored["alpha"], **changes)
    assert ids_of(generator, prompts, config) == stored["ids"]


def test_plug_writes_the_reference_s_texts(tmp_path: Path) -> None:
    case = read_plug_case("pre_ln")
    generator = plug.load(case.write(tmp_path / "pre_ln"))
    beams = {name: one for name, one in case.described["generation"].items() if name.startswith("beam")}
    assert beams
    rows = zip(case.io["input_ids"].tolist(), case.io["attention_mask"].sum(1).tolist(), strict=True)
    prompts = [Prompt((101,), tuple(ids[:length])) for ids, length in rows]
    for stored in beams.values():
        changes = {name: stored[name] for name in ("beam_size", "min_length", "max_length")}
        config = generator.generation_config(method="beam", **changes)
        assert ids_of(generator, prompts, config) == stored["ids"]


# --- Items that come and go

requests = st.builds(
    lambda source, method, seed, changes: (source, method, seed, changes),
    st.lists(st.integers(4, 99), min_size=1, max_size=9),
    st.sampled_from(["greedy", "sample", "beam"]),
    st.integers(0, 99),
    st.sampled_from([{}, {"max_length": 4}, {"deterministic": True}, {"temperature": 2.0}]),
)


def request_of(
    generator: TextGenerator[Any], drawn: tuple[list[int], str, int, dict[str, Any]], **more: Any
) -> WriteRequest:
    source, method, seed, changes = drawn
    prompt = Prompt((101, *source)) if generator is GPT3 else prompts_of([source])[0]
    return WriteRequest(prompt, config_of(generator, method, **changes), seed, **more)


@settings(max_examples=30, deadline=None)
@given(
    number=st.integers(0, 2),
    drawn=st.lists(requests, min_size=1, max_size=5),
    data=st.data(),
)
def test_requests_of_any_kind_are_written_as_each_alone(
    number: int, drawn: list[tuple[list[int], str, int, dict[str, Any]]], data: st.DataObject
) -> None:
    generator = GENERATORS[number]
    some = [request_of(generator, one) for one in drawn]
    arrivals = [data.draw(st.integers(0, 6)) for _ in some]
    found = finished(play(generator, some, arrivals))
    for item, request in enumerate(some):
        (alone,) = finished(play(generator, [request])).values()
        assert [one.token_ids for one in found[item]] == [one.token_ids for one in alone]
        for ours, theirs in zip(found[item], alone, strict=True):
            assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
            assert ours.score == pytest.approx(theirs.score, rel=1e-3)
            assert ours.log_probs == pytest.approx(theirs.log_probs, rel=1e-3, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 2), drawn=requests, data=st.data())
def test_a_stop_string_cuts_what_would_have_been_written(
    number: int, drawn: tuple[list[int], str, int, dict[str, Any]], data: st.DataObject
) -> None:
    generator = GENERATORS[number]
    free = request_of(generator, drawn)
    (whole,) = finished(play(generator, [free])).values()
    text = data.draw(st.sampled_from([one.text for one in whole]))
    assume(text)
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : start + data.draw(st.integers(1, 8))]
    found = finished(play(generator, [dataclasses.replace(free, stop=(stop, "not in any text"))]))[0]
    for ours, free_text in zip(found, whole, strict=True):
        before, has_stop, _ = free_text.text.partition(stop)
        assert ours.text == before
        assert (ours.finish_reason == "stop") == bool(has_stop)
        assert ours.token_ids == free_text.token_ids[: len(ours.token_ids)]
        assert ours.log_probs == pytest.approx(free_text.log_probs[: len(ours.log_probs)], rel=1e-3, abs=1e-3)
        if free.config.method == "beam" or not has_stop:
            assert ours.token_ids == free_text.token_ids
            assert ours.score == pytest.approx(free_text.score, rel=1e-3)
        else:
            penalty = free.config.penalty(len(ours.log_probs))
            assert ours.score == pytest.approx(sum(ours.log_probs) / penalty)


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 2), drawn=requests)
def test_reasons(number: int, drawn: tuple[list[int], str, int, dict[str, Any]]) -> None:
    generator = GENERATORS[number]
    request = request_of(generator, drawn)
    for one in finished(play(generator, [request]))[0]:
        has_ended = one.token_ids[-1] == generator.decoder.eos_id
        assert one.finish_reason == ("end" if has_ended else "length")
        assert len(one.token_ids) == len(request.prompt.first) + len(one.log_probs)
        if not has_ended and request.config.method != "beam":
            assert len(one.log_probs) == request.config.max_length


# --- A generator that writes what it is told to


@dataclass
class Dictation:
    """Writes a given sequence of pieces of bytes; a `TextGenerator` and its decoder."""

    pieces: list[bytes]
    scripts: list[list[int]]
    """Token ids by number of the text; a prompt's source is the number."""
    name: str = "dictation"
    max_positions: int = 100
    steps: int = field(default=0, init=False)

    @property
    def decoder(self) -> Dictation:
        return self

    @property
    def eos_id(self) -> int:
        return len(self.pieces)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces) + 2

    def read(self, text: str) -> Prompt:
        return Prompt((self.eos_id + 1,), (int(text),))

    def start(self, prompts: Sequence[Prompt]) -> TableState:
        return TableState([prompt.source[0] for prompt in prompts], [[] for _ in prompts])

    def step(self, ids_SL: Tensor, state: TableState, *, lengths_S: Tensor | None = None) -> Tensor:
        self.steps += 1
        logits_SV = torch.zeros(len(state.items), self.vocab_size)
        for row, (item, text, ids) in enumerate(zip(state.items, state.texts, ids_SL.tolist(), strict=True)):
            text += ids
            script = [*self.scripts[item], *[self.eos_id] * self.max_positions]
            logits_SV[row, script[len(text) - 1]] = 20.0
        return logits_SV

    def generation_config(self, **changes: Any) -> GenerationConfig:
        GenerationConfig.check_names(changes)
        return GenerationConfig(**{"method": "greedy", "min_length": 0, "max_length": 60, **changes})

    def text(self, ids: Sequence[int], prompt: Prompt) -> str:
        shown = [self.pieces[id] for id in ids[len(prompt.first) :] if id < len(self.pieces)]
        return b"".join(shown).decode(errors="replace")


def dictated(text: str, cuts: Sequence[int]) -> Dictation:
    """Of one text, in pieces that end at these bytes."""
    whole = text.encode()
    ends = sorted({*(cut for cut in cuts if 0 < cut < len(whole)), len(whole)} - {0})
    pieces = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return Dictation(pieces, [list(range(len(pieces)))])


texts = st.text("ab明😀\n", min_size=1, max_size=12)
cuts = st.lists(st.integers(0, 48), max_size=20)
stops = st.lists(st.text("ab明😀\n", min_size=1, max_size=3), max_size=2).map(tuple)


def before_stop(text: str, stop: Sequence[str]) -> str:
    return min((text.partition(one)[0] for one in stop), key=len, default=text)


@settings(max_examples=150, deadline=None)
@given(text=texts, cuts=cuts, stop=stops)
def test_a_text_ends_with_the_token_that_completes_a_stop_string(
    text: str, cuts: list[int], stop: tuple[str, ...]
) -> None:
    generator = dictated(text, cuts)
    request = WriteRequest(generator.read("0"), generator.generation_config(), stop=stop)
    ((one,),) = finished(play(generator, [request])).values()
    wanted = before_stop(text, stop)
    assert one.text == wanted
    assert one.finish_reason == ("end" if wanted == text else "stop")
    count = len(one.log_probs)
    assert generator.steps == count
    assert one.token_ids[1:] == tuple(range(count))
    if wanted != text:
        shorter = generator.text(one.token_ids[:-1], request.prompt)
        assert before_stop(shorter, stop) == shorter, "an earlier token would have been enough"


@settings(max_examples=150, deadline=None)
@given(text=texts, cuts=cuts, stop=stops, method=st.sampled_from(["greedy", "beam"]))
def test_progress_takes_nothing_back(text: str, cuts: list[int], stop: tuple[str, ...], method: str) -> None:
    generator = dictated(text, cuts)
    config = generator.generation_config(method=method, beam_size=2)
    updates = play(generator, [WriteRequest(generator.read("0"), config, stop=stop, progress=True)])
    wanted = before_stop(text, stop)
    shown = [update.text for update in updates[:-1]]
    assert all(update.finished is None for update in updates[:-1])
    assert updates[-1].text is None
    previous = ""
    for one in shown:
        assert one is not None
        assert wanted.startswith(one), "no half of a character, nothing of a stop string"
        assert len(one) > len(previous), "it is told only of what is new"
        previous = one
    if method == "greedy" and not stop and len(generator.pieces) > 1:
        assert shown, "there is something to tell before the end"


def test_what_may_become_a_stop_string_is_held_back() -> None:
    generator = dictated("one\n\nQ: two", range(20))
    config = generator.generation_config()
    updates = play(
        generator, [WriteRequest(generator.read("0"), config, stop=("\n\nA:", "\n\nQQ"), progress=True)]
    )
    assert [update.text for update in updates[:-1]] == [
        *("o", "on", "one"),
        *("one\n\nQ:", "one\n\nQ: ", "one\n\nQ: t", "one\n\nQ: tw", "one\n\nQ: two"),
    ]


def test_beams_go_on_behind_a_stop_string() -> None:
    generator = dictated("one two", range(20))
    config = generator.generation_config(method="beam", beam_size=2)
    ((one,),) = finished(play(generator, [WriteRequest(generator.read("0"), config, stop=(" ",))])).values()
    assert (one.text, one.finish_reason) == ("one", "stop")
    assert len(one.log_probs) == len("one two") + 1


def test_a_drawn_text_waits_for_the_others() -> None:
    free = WriteRequest(prompts_of([[7, 8]])[0], config_of(PLUG, "sample", max_length=9), seed=4)
    first, second = finished(play(PLUG, [free]))[0]
    stop = next(
        first.text[at : at + 7]
        for at in range(len(first.text) - 7)
        if first.text[at : at + 7] not in second.text
    )
    stopped, other = finished(play(PLUG, [dataclasses.replace(free, stop=(stop,))]))[0]
    assert stopped.text == first.text.partition(stop)[0]
    assert stopped.finish_reason == "stop"
    assert other.text == second.text


# --- The batch, and mistakes


def test_a_batch_of_texts() -> None:
    texts, seeds = ["piece7 piece9", "piece8"], [3, 4]
    config = PLUG.generation_config(method="sample", max_length=6)
    requests = [WriteRequest(PLUG.read(text), config, seed) for text, seed in zip(texts, seeds, strict=True)]
    wanted = finished(play(PLUG, requests))
    assert write(PLUG, texts, method="sample", max_length=6, seeds=seeds) == [wanted[0], wanted[1]]
    assert write(PLUG, []) == []
    ((cut,),) = write(PLUG, ["piece7"], method="greedy", max_length=6, stop=["iec"])
    assert (cut.text, cut.finish_reason) == ("p", "stop")


def test_mistakes_are_named_before_any_work() -> None:
    with pytest.raises(MplugError, match="a stop string is empty"):
        write(PLUG, ["piece7"], stop=["x", ""])
    with pytest.raises(MplugError, match="2 seeds for 1 texts"):
        write(PLUG, ["piece7"], seeds=[1, 2])
    with pytest.raises(ConfigError, match="unknown among beams"):
        write(PLUG, ["piece7"], beams=3)
    generator = dictated("abc", [1, 2])
    writer = TextWriter(generator)
    one = WriteRequest(generator.read("0"), generator.generation_config())
    writer.admit({4: one})
    steps = generator.steps
    too_long = WriteRequest(generator.read("0"), generator.generation_config(max_length=101))
    with pytest.raises(MplugError, match="item 4 is being written already"):
        writer.admit({5: one, 4: one})
    with pytest.raises(MplugError, match="item 6 may grow to 101 tokens"):
        writer.admit({5: one, 6: too_long})
    assert list(writer.live) == [4]
    assert generator.steps == steps


def test_what_is_dropped_is_told_no_more() -> None:
    generator = Dictation([b"a", b"b"], [[0, 1, 0]] * 3)
    greedy, beams = generator.generation_config(), generator.generation_config(method="beam", beam_size=2)
    writer = TextWriter(generator)
    writer.admit(
        {
            item: WriteRequest(generator.read(str(item)), config, progress=True)
            for item, config in enumerate([greedy, greedy, beams])
        }
    )
    writer.drop([0, 2, 9])
    assert list(writer.live) == [1]
    assert [update.item for update in writer.step()] == [1]
    writer.drop([1])
    steps = generator.steps
    assert not writer.live
    assert writer.step() == []
    assert generator.steps == steps


@dataclass
class Failing(Dictation):
    """Fails with a text, at its first step."""

    def step(self, ids_SL: Tensor, state: TableState, *, lengths_S: Tensor | None = None) -> Tensor:
        if 1 in state.items:
            raise RuntimeError("out of memory")
        return super().step(ids_SL, state, lengths_S=lengths_S)


def test_a_failing_admission_leaves_the_others_as_they_were() -> None:
    generator = Failing([b"a", b"b"], [[0, 1], [0]])
    good, bad = (WriteRequest(generator.read(number), generator.generation_config()) for number in "01")
    beams = dataclasses.replace(good, config=generator.generation_config(method="beam", beam_size=2))
    writer = TextWriter(generator)
    writer.admit({0: good})
    with pytest.raises(RuntimeError, match="out of memory"):
        writer.admit({1: beams, 2: bad})
    assert list(writer.live) == [0]
    updates = writer.step() + writer.step()
    assert [one.text for texts in finished(updates).values() for one in texts] == ["ab"]
    assert not writer.live
