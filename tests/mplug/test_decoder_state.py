"""States that are put together and taken apart."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generation_cases import random_decoder
from mplug import decoder_state
from mplug.decoder_state import DecoderState
from mplug_kernels import dispatch, ops
from mplug_kernels.types import prefix_lengths
from mplug_kernels.variants import Variant

DECODER = random_decoder(3).double()
WIDTH = DECODER.config.memory_width


@pytest.fixture
def nan_in_new_memory() -> Iterator[None]:
    """Every tensor that is made empty is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def started(memories: Sequence[int], prompts: Sequence[int], numbers: torch.Generator) -> DecoderState:
    """Texts of so many tokens from memories of so many, padding behind either."""
    memory = torch.randn(len(memories), max(memories), WIDTH, generator=numbers, dtype=torch.float64)
    mask = torch.arange(max(memories)) < torch.tensor(memories)[:, None]
    state = DECODER.start(memory, memory_mask_BN=mask)
    DECODER.step(read(len(prompts), max(prompts), numbers), state, lengths_S=torch.tensor(prompts))
    return state


def read(texts: int, tokens: int, numbers: torch.Generator) -> Tensor:
    return torch.randint(3, 50, (texts, tokens), generator=numbers)


Sizes = list[tuple[int, int]]
sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(
    groups=st.lists(sizes, min_size=2, max_size=4),
    sequences=st.integers(1, 2),
    steps=st.integers(0, 3),
    data=st.data(),
)
def test_joined_states_go_on_as_they_would_apart(
    groups: list[Sizes], sequences: int, steps: int, data: st.DataObject
) -> None:
    numbers = torch.Generator().manual_seed(steps)

    def grown(group: Sizes) -> list[DecoderState]:
        """The same state twice, after some steps."""
        seed = int(torch.randint(999, (1,), generator=numbers))
        states = []
        for _ in range(2):
            own = torch.Generator().manual_seed(seed)
            state = started([memory for memory, _ in group], [prompt for _, prompt in group], own)
            state.repeat(sequences)
            for _ in range(seed % 3):
                DECODER.step(read(state.num_sequences, 1, own), state)
            states.append(state)
        return states

    apart = []
    joined: DecoderState | None = None
    for group in groups:
        one, other = grown(group)
        apart.append(one)
        if joined is None:
            joined = other
        else:
            joined.join(other)
        compare(joined, apart, numbers)
    assert joined is not None
    kept = data.draw(st.sets(st.sampled_from(range(joined.num_images)), min_size=1).map(sorted))
    joined.keep_images(torch.tensor(kept))
    first = 0
    for state in apart:
        mine = [image - first for image in kept if first <= image < first + state.num_images]
        first += state.num_images
        state.keep_images(torch.tensor(mine, dtype=torch.int64))
    compare(joined, [state for state in apart if state.num_images], numbers)
    assert joined.used == int(joined.lengths_S.max()), "no slot that nobody uses"


def compare(joined: DecoderState, apart: Sequence[DecoderState], numbers: torch.Generator) -> None:
    ids = read(joined.num_sequences, 1, numbers)
    logits = DECODER.step(ids, joined)
    parts = torch.split(ids, [state.num_sequences for state in apart])
    wanted = torch.cat([DECODER.step(part, state) for part, state in zip(parts, apart, strict=True)])
    assert torch.allclose(logits, wanted, rtol=1e-9, atol=1e-9)


def test_lengths_of_memories_follow_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def noted(mask: Tensor) -> tuple[int, ...] | None:
        asked.append(mask)
        return prefix_lengths(mask)

    monkeypatch.setattr(decoder_state, "prefix_lengths", noted)
    numbers = torch.Generator().manual_seed(1)
    state = started([2, 5, 3], [1, 1, 1], numbers)
    assert not asked, "nobody has asked for them"
    assert state.memory_lengths() == state.memory_lengths() == (2, 5, 3)
    state.repeat(2)
    state.select(torch.tensor([1, 0, 3, 2, 5, 4]))
    assert state.memory_lengths() == (2, 5, 3)
    assert len(asked) == 1, "the mask is the same"
    state.keep_images(torch.tensor([2, 0]))
    assert state.memory_lengths() == (3, 2)
    other = started([4], [1], numbers)
    assert other.memory_lengths() == (4,), "there is no mask"
    other.repeat(2)
    state.join(other)
    assert state.memory_lengths() == (3, 2, 4)
    assert len(asked) == 3
    state.keep_images(torch.tensor([2]))
    assert state.memory_mask_B11N is None
    assert state.memory_lengths() == (4,)
    assert len(asked) == 3


def test_a_mask_with_gaps_has_no_lengths() -> None:
    mask = torch.tensor([[True, True, False], [True, False, True]])
    state = DECODER.start(torch.randn(2, 3, WIDTH, dtype=torch.float64), memory_mask_BN=mask)
    assert state.memory_lengths() is None
    state.keep_images(torch.tensor([0]))
    assert state.memory_lengths() == (2,)


@pytest.mark.usefixtures("nan_in_new_memory")
def test_steps_after_joining_are_the_same_with_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[list[int]] = []
    operator = ops.xattn_kv

    def noted(q: Tensor, k: Tensor, v: Tensor, plan: ops.Plan, scale: float) -> tuple[Tensor, Tensor]:
        lengths.append(plan.kv_lens.tolist())
        return operator(q, k, v, plan, scale)

    monkeypatch.setattr(ops, "xattn_kv", noted)
    numbers = torch.Generator().manual_seed(2)
    memories = [started([2, 5], [1, 4], numbers), started([7, 1], [3, 2], numbers)]
    state, twin = memories[0], copy.deepcopy(memories[0])
    for each in (state, twin):
        each.join(copy.deepcopy(memories[1]))
    for kept in (torch.tensor([0, 1, 2, 3]), torch.tensor([3, 1]), torch.tensor([0])):
        state.keep_images(kept)
        twin.keep_images(kept)
        ids = read(state.num_sequences, 1, numbers)
        with dispatch.forcing(Variant.KV):
            found = DECODER.step(ids, state)
        assert torch.allclose(found, DECODER.step(ids, twin), rtol=1e-9, atol=1e-9)
    layers = DECODER.config.layers
    assert lengths == [[2, 5, 7, 1]] * layers + [[1, 5]] * layers + [[1]] * layers


@pytest.mark.usefixtures("nan_in_new_memory")
def test_nothing_is_read_that_was_never_written() -> None:
    numbers = torch.Generator().manual_seed(1)
    state = started([2, 5], [1, 4], numbers)
    for prompt in (3, 7):
        state.join(started([3], [prompt], numbers))
        assert DECODER.step(read(state.num_sequences, 1, numbers), state).isfinite().all()


def test_room_does_not_grow_for_ever() -> None:
    numbers = torch.Generator().manual_seed(1)
    state = started([2], [30], numbers)
    for _ in range(40):
        state.join(started([3], [2], numbers))
        DECODER.step(read(state.num_sequences, 1, numbers), state)
        if state.num_images > 3:
            state.keep_images(torch.tensor([1, 2, 3]))
    assert state.used == 5
    assert len(state.cache_TC2SHK) == 32


def test_states_with_another_number_of_sequences_are_refused() -> None:
    numbers = torch.Generator().manual_seed(1)
    state, other = started([2], [1], numbers), started([2], [1], numbers)
    state.repeat(3)
    with pytest.raises(ValueError, match="images have 1 sequences each, these 3; repeat them first"):
        state.join(other)
