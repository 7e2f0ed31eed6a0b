"""The compiled operator where memories are of unequal length: a mask of leading ones is so many keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mplug_kernels import cached, compiled, ops
from mplug_kernels.dispatch import forcing
from mplug_kernels.types import CrossWeights, prefix_lengths
from mplug_kernels.variants import Variant

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS, WIDTH, MEMORIES, ROWS = 2, 128, 4, 9


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The lengths of memories that `xattn_kv` was run with."""
    ran: list[Tensor] = []
    operator = ops.xattn_kv

    def noted(q: Tensor, k: Tensor, v: Tensor, plan: ops.Plan, scale: float) -> Any:
        ran.append(plan.kv_lens)
        return operator(q, k, v, plan, scale)

    monkeypatch.setattr(ops, "xattn_kv", noted)
    return ran


def some_attention(seed: int = 0) -> tuple[Tensor, cached.KeyValues, CrossWeights]:
    numbers = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=numbers)

    square = [random(WIDTH, WIDTH) / WIDTH**0.5 for _ in range(3)]
    weights = CrossWeights(
        square[0], random(WIDTH), square[1], random(WIDTH), square[2], random(WIDTH), num_heads=HEADS
    )
    x, memory = random(2 * MEMORIES, 3, WIDTH), random(MEMORIES, ROWS, WIDTH)
    return x, cached.project(memory, weights), weights


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(ROWS) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(
    "lengths",
    [(9, 9, 9, 9), (4, 9, 1, 7), (2, 3, 2, 1), (5, 0, 9, 3), (0, 0, 0, 0)],
    ids=["full", "ragged", "short", "one-empty", "all-empty"],
)
@torch.inference_mode()
def test_leading_rows_are_attended_to_as_with_the_mask(lengths: tuple[int, ...], calls: list[Tensor]) -> None:
    x, key_values, weights = some_attention()
    mask = mask_of(*lengths)
    plain = cached.attend(x, key_values, weights, mask)
    assert not calls
    with forcing(Variant.KV):
        found = cached.attend(x, key_values, weights, mask)
    (ran,) = calls
    assert tuple(ran.tolist()) == lengths
    assert torch.allclose(found, plain, atol=1e-6)
    for memory, length in enumerate(lengths):
        if length == 0:
            assert not found[2 * memory : 2 * memory + 2].any(), "zeros, as `silence_empty` gives"


@torch.inference_mode()
def test_rows_behind_the_length_are_not_read(calls: list[Tensor]) -> None:
    x, key_values, weights = some_attention()
    mask = mask_of(4, 9, 0, 7)
    plain = cached.attend(x, key_values, weights, mask)
    hidden_BHN = ~mask[:, None].expand(-1, HEADS, -1)
    for part in (key_values.key_BHNK, key_values.value_BHNK):
        part[hidden_BHN] = torch.nan
    with forcing(Variant.KV):
        found = cached.attend(x, key_values, weights, mask)
    assert calls
    assert torch.allclose(found, plain, atol=1e-6)


@torch.inference_mode()
def test_two_masks_of_one_shape_have_plans_of_their_own(calls: list[Tensor]) -> None:
    x, key_values, weights = some_attention()
    with forcing(Variant.KV):
        for mask in (None, mask_of(4, 9, 1, 7), mask_of(7, 1, 9, 4), None):
            found = cached.attend(x, key_values, weights, mask)
            with forcing():
                assert torch.allclose(found, cached.attend(x, key_values, weights, mask), atol=1e-6)
    assert len(calls) == 4


@torch.inference_mode()
def test_a_mask_with_gaps_is_plain_torch(calls: list[Tensor]) -> None:
    x, key_values, weights = some_attention()
    mask = mask_of(4, 9, 1, 7)
    mask[1, 0] = False
    plain = cached.attend(x, key_values, weights, mask)
    with forcing(Variant.KV):
        found = cached.attend(x, key_values, weights, mask)
    assert not calls
    assert torch.equal(found, plain)


@torch.inference_mode()
def test_lengths_are_asked_for_only_where_a_kernel_would_run() -> None:
    def never() -> tuple[int, ...]:
        raise AssertionError("asked, although plain torch runs")

    q, key_values = torch.randn(MEMORIES, 2, HEADS, WIDTH // HEADS), some_attention()[1]
    keys, values = key_values.key_BHNK, key_values.value_BHNK
    assert compiled.attend_cached(q, keys, values, never) is None
    with forcing(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "make_plan", never)
        assert compiled.attend_cached(q, keys, values, never) is None


def test_gradients_are_those_of_the_mask(calls: list[Tensor]) -> None:
    x, key_values, weights = some_attention()
    mask = mask_of(4, 9, 0, 7)
    leaves = [x, key_values.key_BHNK, key_values.value_BHNK]
    for leaf in leaves:
        leaf.requires_grad_()
    plain = torch.autograd.grad(cached.attend(x, key_values, weights, mask).square().sum(), leaves)
    with forcing(Variant.KV):
        found = torch.autograd.grad(cached.attend(x, key_values, weights, mask).square().sum(), leaves)
    assert calls
    for ours, theirs in zip(found, plain, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("mask", "lengths"),
    [
        ([[1, 1, 0], [1, 1, 1]], (2, 3)),
        ([[0, 0, 0], [1, 0, 0]], (0, 1)),
        ([[0, 1, 1]], None),
        ([[1, 1, 1], [1, 0, 1]], None),
        ([[], []], (0, 0)),
    ],
)
def test_prefixes_and_gaps(mask: list[list[int]], lengths: tuple[int, ...] | None) -> None:
    assert prefix_lengths(torch.tensor(mask).bool()) == lengths
