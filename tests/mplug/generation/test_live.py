"""Continuous batching: an item is what it is alone, whenever it comes and whoever else is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generation_cases import EOS, TableDecoder, check_texts, random_decoder
from golden.gpt3_cases import tiny_generator
from mplug.decoder_state import DecoderState
from mplug.errors import MplugError
from mplug.generation import (
    Event,
    Finished,
    GenerationConfig,
    Hypothesis,
    LiveBatch,
    LiveRequest,
    StepDecoder,
    Token,
    generate,
)
from mplug.text_decoder import TextDecoder

TOLERANCE = 1e-5
Start = Callable[[Sequence[int]], Any]
"""From items to a state; Any: whatever the decoder's is."""

DECODER = random_decoder(1, positions=64).double()
GPT3 = tiny_generator("plain", positions=64).double().decoder


@dataclass(frozen=True)
class RaggedMemories:
    """Memories of unequal length, padded as far as those that are asked for together need it."""

    decoder: TextDecoder
    memories: list[Tensor]

    def __call__(self, items: Sequence[int]) -> DecoderState:
        some = [self.memories[item] for item in items]
        memory = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
        lengths = torch.tensor([len(one) for one in some])
        mask = torch.arange(memory.shape[1]) < lengths[:, None]
        return self.decoder.start(memory, memory_mask_BN=mask)


def ragged_memories(lengths: Sequence[int], seed: int = 0) -> RaggedMemories:
    numbers = torch.Generator().manual_seed(seed)
    width = DECODER.config.memory_width
    return RaggedMemories(
        DECODER, [torch.randn(size, width, generator=numbers, dtype=torch.float64) for size in lengths]
    )


def config_of(method: str, width: int, **changes: Any) -> GenerationConfig:
    values: dict[str, Any] = {"method": method, "beam_size": width, "num_results": width, "max_length": 8}
    return GenerationConfig(**{**values, **changes})


def alone(decoder: StepDecoder[Any], start: Start, item: int, request: LiveRequest) -> tuple[Hypothesis, ...]:
    (texts,) = generate(
        decoder, lambda _: start([item]), [request.prompt], request.config, seeds=[request.seed]
    )
    return texts


def play(
    batch: LiveBatch[Any],
    start: Start,
    requests: Sequence[LiveRequest],
    arrivals: Sequence[int],
    departures: Mapping[int, int] | None = None,
) -> list[Event]:
    """Admit each item before a step, and drop some; everything that is yielded until the last has ended."""
    events: list[Event] = []
    step = 0
    while batch.live or step <= max(arrivals):
        items = [item for item, arrival in enumerate(arrivals) if arrival == step]
        if items:
            events += batch.admit({item: requests[item] for item in items}, start(items))
        batch.drop([item for item, departure in (departures or {}).items() if departure == step])
        events += batch.step()
        step += 1
    return events


def finished(events: Sequence[Event]) -> dict[int, tuple[Hypothesis, ...]]:
    return {event.item: event.hypotheses for event in events if isinstance(event, Finished)}


@st.composite
def scenarios(draw: st.DrawFn, vocab_size: int = 12, prompt: int = 6) -> tuple[list[LiveRequest], list[int]]:
    """Requests with equally many sequences, of one or several settings, and when they come."""
    width = draw(st.integers(1, 3))
    rules = draw(st.sampled_from(["mplug", "open_clip", "gpt3"]))
    methods = ["greedy", "sample", "beam"] if width == 1 else ["sample", "beam"]
    kinds = draw(
        st.lists(
            st.builds(
                lambda method, least, most, repetition: config_of(
                    method,
                    width,
                    rules=rules,
                    min_length=least,
                    max_length=most,
                    repetition_penalty=repetition,
                ),
                st.sampled_from(methods),
                st.integers(0, 3),
                st.integers(3, 14),
                st.sampled_from([1.0, 1.0, 1.3]),
            ),
            min_size=1,
            max_size=2,
        )
    )
    tokens = st.lists(st.integers(3, vocab_size - 1), min_size=1, max_size=prompt)
    requests = st.builds(LiveRequest, tokens.map(tuple), st.sampled_from(kinds), st.integers(0, 99))
    items = draw(st.lists(requests, min_size=1, max_size=6))
    return items, [draw(st.integers(0, 9)) for _ in items]


@settings(max_examples=80, deadline=None)
@given(scenario=scenarios(), seed=st.integers(0, 2**20), bonus=st.sampled_from([0.0, 2.0]))
def test_an_item_of_a_table_is_what_it_is_alone(
    scenario: tuple[list[LiveRequest], list[int]], seed: int, bonus: float
) -> None:
    requests, arrivals = scenario
    decoder = TableDecoder(12, seed, eos_bonus=bonus)
    found = finished(play(LiveBatch(decoder), decoder.start, requests, arrivals))
    assert found == {
        item: alone(decoder, decoder.start, item, request) for item, request in enumerate(requests)
    }


@settings(max_examples=40, deadline=None)
@given(scenario=scenarios(50), data=st.data())
def test_an_item_with_a_memory_is_what_it_is_alone(
    scenario: tuple[list[LiveRequest], list[int]], data: st.DataObject
) -> None:
    requests, arrivals = scenario
    start = ragged_memories([data.draw(st.integers(1, 9)) for _ in requests])
    found = finished(play(LiveBatch(DECODER), start, requests, arrivals))
    assert sorted(found) == list(range(len(requests)))
    for item, request in enumerate(requests):
        check_texts(found[item], alone(DECODER, start, item, request), TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(scenario=scenarios(400, prompt=20))
def test_an_item_without_a_memory_is_what_it_is_alone(
    scenario: tuple[list[LiveRequest], list[int]],
) -> None:
    def start(items: Sequence[int]) -> DecoderState:
        return GPT3.start(len(items))

    requests, arrivals = scenario
    found = finished(play(LiveBatch(GPT3), start, requests, arrivals))
    for item, request in enumerate(requests):
        check_texts(found[item], alone(GPT3, start, item, request), TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(scenario=scenarios(50), data=st.data())
def test_who_leaves_harms_nobody(scenario: tuple[list[LiveRequest], list[int]], data: st.DataObject) -> None:
    requests, arrivals = scenario
    start = ragged_memories([data.draw(st.integers(1, 9)) for _ in requests])
    leave = data.draw(st.dictionaries(st.sampled_from(range(len(requests))), st.integers(0, 12)))
    departures = {item: step for item, step in leave.items() if step >= arrivals[item]}
    events = play(LiveBatch(DECODER), start, requests, arrivals, departures)
    found = finished(events)
    assert found.keys() | departures.keys() == set(range(len(requests)))
    for item, texts in found.items():
        check_texts(texts, alone(DECODER, start, item, requests[item]), TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(scenario=scenarios(), seed=st.integers(0, 2**20))
def test_tokens_come_in_order_and_make_the_texts(
    scenario: tuple[list[LiveRequest], list[int]], seed: int
) -> None:
    requests, arrivals = scenario
    decoder = TableDecoder(12, seed, eos_bonus=1.0)
    told: dict[tuple[int, int], list[tuple[int, float]]] = {}
    ended: set[int] = set()
    events = play(LiveBatch(decoder), decoder.start, requests, arrivals)
    for event in events:
        assert event.item not in ended, "an item's Finished is its last event"
        if isinstance(event, Token):
            told.setdefault((event.item, event.text), []).append((event.id, event.log_prob))
        else:
            ended.add(event.item)
    for item, texts in finished(events).items():
        generated = len(requests[item].prompt)
        for number, one in enumerate(texts):
            if requests[item].config.method != "beam" or number == 0:
                assert told[item, number] == list(zip(one.ids[generated:], one.log_probs, strict=True))


@settings(max_examples=40, deadline=None)
@given(scenario=scenarios(), seed=st.integers(0, 2**20))
def test_log_probs_make_the_score(scenario: tuple[list[LiveRequest], list[int]], seed: int) -> None:
    requests, arrivals = scenario
    decoder = TableDecoder(12, seed, eos_bonus=1.0)
    found = finished(play(LiveBatch(decoder), decoder.start, requests, arrivals))
    for item, request in enumerate(requests):
        for one in found[item]:
            assert len(one.ids) == len(request.prompt) + len(one.log_probs)
            total = sum(one.log_probs)
            assert one.score == pytest.approx(
                total / request.config.penalty(divided_by(request, one)), abs=TOLERANCE, rel=TOLERANCE
            )


def divided_by(request: LiveRequest, one: Hypothesis) -> int:
    """The length that the rules divide a sum by."""
    config = request.config
    if config.method != "beam" or config.rules == "mplug":
        return len(one.log_probs)
    return len(one.ids) if config.rules == "open_clip" else len(request.prompt) + config.max_length


def test_a_stream_of_requests_takes_the_room_of_the_longest_that_is_live() -> None:
    config = config_of("greedy", 1, min_length=6, max_length=6)
    batch: LiveBatch[DecoderState] = LiveBatch(GPT3)
    state = GPT3.start(2)
    batch.admit({0: LiveRequest((5,) * 40, config), 1: LiveRequest((5, 6), config)}, state)
    assert state.used == 40
    used: list[int] = []
    for item in range(2, 60):
        batch.step()
        batch.admit({item: LiveRequest((5, item), config)}, GPT3.start(1))
        used.append(state.used)
    # Once the long one has ended, the oldest has read two tokens of prompt and four that were generated.
    assert max(used[:4]) >= 42
    assert max(used[6:]) == 6
    assert len(state.cache_TC2SHK) <= 32
    assert state.cache_TC2SHK.shape[3] == len(batch.live)


def test_items_of_equal_length_need_no_mask() -> None:
    config = config_of("greedy", 1, min_length=9, max_length=9)
    batch: LiveBatch[DecoderState] = LiveBatch(GPT3)
    state = GPT3.start(1)
    batch.admit({0: LiveRequest((5, 6), config)}, state)
    batch.step()
    batch.admit({1: LiveRequest((5, 6, 7), config)}, GPT3.start(1))
    assert has_no_mask(state)
    batch.admit({2: LiveRequest((5,), config)}, GPT3.start(1))
    assert not has_no_mask(state)
    batch.drop([2])
    assert has_no_mask(state)


def has_no_mask(state: DecoderState) -> bool:
    return state.valid_ST is None


def test_a_long_memory_is_forgotten_with_its_item() -> None:
    start = ragged_memories([9, 3, 3])
    config = config_of("greedy", 1, min_length=9, max_length=9)
    batch: LiveBatch[DecoderState] = LiveBatch(DECODER)
    state = start([0])
    batch.admit({0: LiveRequest((1,), config)}, state)
    batch.admit({item: LiveRequest((1,), config) for item in (1, 2)}, start([1, 2]))
    assert state.cross[0].key_BHNK.shape[2] == 9
    batch.drop([0])
    assert state.cross[0].key_BHNK.shape[2] == 3
    assert state.memory_mask_B11N is None


def test_items_with_equal_settings_are_chosen_for_at_once() -> None:
    decoder = TableDecoder(12, 1, eos_bonus=-20)
    config = GenerationConfig(method="sample", max_length=20)
    batch: LiveBatch[Any] = LiveBatch(decoder)
    for item in range(3):
        request = LiveRequest((5,), dataclasses.replace(config, seed=item), seed=item)
        batch.admit({item: request}, decoder.start([item]))
        batch.step()
    assert len(batch._lanes) == 1
    assert list(batch.live) == [0, 1, 2]


def test_nothing_to_do() -> None:
    decoder = TableDecoder(12, 1)
    batch: LiveBatch[Any] = LiveBatch(decoder)
    assert batch.admit({}, decoder.start([])) == []
    assert batch.step() == []
    batch.drop([3])
    assert not batch.live
    assert decoder.steps == 0


def test_an_item_may_end_with_its_first_step() -> None:
    decoder = TableDecoder(12, 1)
    batch: LiveBatch[Any] = LiveBatch(decoder)
    config = GenerationConfig(method="greedy", max_length=1)
    events = batch.admit({4: LiveRequest((5,), config)}, decoder.start([4]))
    assert [type(event) for event in events] == [Token, Finished]
    assert not batch.live


def test_mistakes_are_named_and_leave_the_batch_as_it_was() -> None:
    decoder = TableDecoder(12, 1, eos_bonus=-20, max_positions=20)
    greedy = GenerationConfig(method="greedy", max_length=9)
    batch: LiveBatch[Any] = LiveBatch(decoder)
    batch.admit({7: LiveRequest((5,), greedy)}, decoder.start([7]))
    wrong = {
        "item 7 is in the batch already": {7: LiveRequest((5,), greedy)},
        r"item 8 has 5 sequences \(beam_size or num_results\), the batch 1": {
            8: LiveRequest((5,), GenerationConfig())
        },
        "item 8 is not alone, and there are deterministic items": {
            8: LiveRequest((5,), dataclasses.replace(greedy, deterministic=True))
        },
        "the prompt of item 9 is empty": {8: LiveRequest((5,), greedy), 9: LiveRequest((), greedy)},
        "item 8 may grow to 28 tokens": {8: LiveRequest((5,) * 20, greedy)},
    }
    for message, items in wrong.items():
        with pytest.raises(MplugError, match=message):
            batch.admit(items, decoder.start(list(items)))
    assert list(batch.live) == [7]
    assert finished(batch.step()) == {}


def test_a_deterministic_item_is_bit_equal_in_a_batch_of_its_own() -> None:
    start = ragged_memories([4])
    request = LiveRequest((1, 9), config_of("beam", 3, deterministic=True))
    found = finished(play(LiveBatch(DECODER), start, [request], [0]))
    assert found == {0: alone(DECODER, start, 0, request)}
    batch: LiveBatch[Any] = LiveBatch(DECODER)
    batch.admit({0: request}, start([0]))
    with pytest.raises(MplugError, match="item 1 is not alone"):
        batch.admit({1: LiveRequest((1,), config_of("beam", 3))}, start([0]))


class BreakingDecoder(TableDecoder):
    """Fails with the prompts of one item."""

    def step(self, ids_SL: Tensor, state: Any, *, lengths_S: Tensor | None = None) -> Tensor:
        if 1 in state.items and len(state.texts[-1]) == 0:
            raise RuntimeError("out of memory")
        return super().step(ids_SL, state, lengths_S=lengths_S)


def test_a_model_that_fails_with_new_items_goes_on_with_the_others() -> None:
    decoder = BreakingDecoder(12, 3)
    request = LiveRequest((5,), GenerationConfig(method="greedy", min_length=4, max_length=6))
    batch: LiveBatch[Any] = LiveBatch(decoder)
    batch.admit({0: request}, decoder.start([0]))
    with pytest.raises(RuntimeError, match="out of memory"):
        batch.admit({1: request, 2: request}, decoder.start([1, 2]))
    assert list(batch.live) == [0]
    events: list[Event] = []
    while batch.live:
        events += batch.step()
    assert finished(events) == {0: alone(decoder, decoder.start, 0, request)}
    assert EOS not in finished(events)[0][0].ids[1:5]
