"""Every form of cross-attention against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mplug_kernels import absorbed, cached
from mplug_kernels.reference import cross_attention
from mplug_kernels.types import CrossWeights

Form = Callable[[Tensor, Tensor, CrossWeights, Tensor | None], Tensor]


def attend_cached(x: Tensor, memory: Tensor, weights: CrossWeights, mask: Tensor | None) -> Tensor:
    return cached.attend(x, cached.project(memory, weights), weights, mask)


FORMS: dict[str, Form] = {"cached": attend_cached, "absorbed": absorbed.attend}
# Largest relative Frobenius error; in bfloat16 inputs are rounded first, so only the computing errs.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def some_weights(
    width: int, memory_width: int, heads: int, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> CrossWeights:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    return CrossWeights(
        query_DD=random(width, width),
        query_bias_D=random(width),
        key_DM=random(width, memory_width),
        key_bias_D=random(width),
        value_DM=random(width, memory_width),
        value_bias_D=random(width),
        num_heads=heads,
    )


def some_inputs(
    sequences: int, length: int, memories: int, rows: int, weights: CrossWeights, *, seed: int = 1
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width, memory_width = weights.key_DM.shape
    x = torch.randn(sequences, length, width, generator=generator)
    memory = torch.randn(memories, rows, memory_width, generator=generator)
    return x.to(weights.key_DM.dtype), memory.to(weights.key_DM.dtype)


def exact(x: Tensor, memory: Tensor, weights: CrossWeights, mask: Tensor | None = None) -> Tensor:
    """The reference in float64, every sequence with a copy of its memory."""
    tensors = {
        name: getattr(weights, name).double() for name in CrossWeights.__slots__ if name != "num_heads"
    }
    repeats = len(x) // len(memory)
    mask = None if mask is None else mask.repeat_interleave(repeats, 0)
    memory = memory.double().repeat_interleave(repeats, 0)
    return cross_attention(x.double(), memory, CrossWeights(**tensors, num_heads=weights.num_heads), mask)


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    assert not ours.isnan().any()
    return float((ours.double() - reference).norm() / reference.norm().clamp_min(1e-12))


def some_mask(kind: str, memories: int, rows: int) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.ones(memories, rows, dtype=torch.bool)
    if kind == "ragged":
        for memory in range(memories):
            mask[memory, 1 + memory % rows :] = False
    elif kind == "holes":
        mask = torch.rand(memories, rows, generator=torch.Generator().manual_seed(2)) > 0.5
        mask[:, 0] = True
    elif kind == "one empty":
        mask[0] = False
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mask_kind", ["none", "full", "ragged", "holes", "one empty"])
@pytest.mark.parametrize(
    ("memories", "per_memory", "length", "rows", "width", "memory_width", "heads"),
    [
        (1, 1, 1, 1, 8, 8, 1),  # one of everything
        (1, 5, 1, 37, 48, 48, 4),  # a decoder's step, five beams
        (3, 5, 2, 17, 48, 48, 4),  # two tokens at once
        (4, 1, 12, 37, 48, 48, 4),  # reranking
        (2, 3, 7, 65, 64, 24, 2),  # a narrow memory
        (2, 1, 7, 65, 32, 96, 8),  # a wide one
        (3, 2, 4, 5, 24, 24, 24),  # heads of width 1
    ],
)
@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_forms_equal_the_reference(
    form: str,
    memories: int,
    per_memory: int,
    length: int,
    rows: int,
    width: int,
    memory_width: int,
    heads: int,
    mask_kind: str,
    dtype: torch.dtype,
) -> None:
    weights = some_weights(width, memory_width, heads, dtype=dtype)
    x, memory = some_inputs(memories * per_memory, length, memories, rows, weights)
    mask = some_mask(mask_kind, memories, rows)
    ours = FORMS[form](x, memory, weights, mask)
    assert ours.dtype == dtype
    assert error(ours, exact(x, memory, weights, mask)) < TOLERANCE[dtype]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(
    memories=st.integers(1, 4),
    per_memory=st.integers(1, 4),
    length=st.integers(1, 5),
    rows=st.integers(1, 40),
    heads=st.integers(1, 4),
    head_width=st.integers(1, 9),
    memory_width=st.integers(1, 20),
    seed=st.integers(0, 2**16),
)
@torch.inference_mode()
def test_forms_equal_the_reference_for_any_shape(
    form: str,
    memories: int,
    per_memory: int,
    length: int,
    rows: int,
    heads: int,
    head_width: int,
    memory_width: int,
    seed: int,
) -> None:
    weights = some_weights(heads * head_width, memory_width, heads, seed=seed)
    x, memory = some_inputs(memories * per_memory, length, memories, rows, weights, seed=seed + 1)
    mask = torch.rand(memories, rows, generator=torch.Generator().manual_seed(seed)) > 0.3
    assert error(FORMS[form](x, memory, weights, mask), exact(x, memory, weights, mask)) < 1e-5


@torch.inference_mode()
def test_absorbing_is_no_worse_than_projecting_in_bfloat16() -> None:
    # With logits as peaky as a trained model's, and a mean that all rows share, as after a ViT.
    weights = some_weights(96, 96, 6, dtype=torch.bfloat16)
    x, memory = some_inputs(4, 8, 4, 129, weights)
    x, memory = 3 * x, memory + 1
    reference = exact(x, memory, weights)
    errors = {name: error(form(x, memory, weights, None), reference) for name, form in FORMS.items()}
    assert errors["absorbed"] < 2 * errors["cached"], errors


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_a_memory_without_rows_to_attend_to_gives_zeros(form: str) -> None:
    weights = some_weights(24, 16, 3)
    x, memory = some_inputs(6, 2, 3, 5, weights)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    context = FORMS[form](x, memory, weights, mask)
    silent = (context == 0).all(dim=(1, 2))
    assert silent.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("form", [*FORMS, "reference"])
@torch.inference_mode()
def test_the_key_bias_makes_no_difference(form: str) -> None:
    run = {**FORMS, "reference": cross_attention}[form]
    weights = some_weights(24, 16, 3)
    x, memory = some_inputs(2, 3, 2, 9, weights)
    moved = replace(weights, key_bias_D=weights.key_bias_D + 50 * torch.randn(24))
    assert error(run(x, memory, moved, None), exact(x, memory, weights)) < 2e-5


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_the_value_bias_is_added_once(form: str) -> None:
    weights = some_weights(24, 16, 3)
    x, memory = some_inputs(6, 2, 2, 9, weights)
    bias = torch.randn(24)
    moved = replace(weights, value_bias_D=weights.value_bias_D + bias)
    difference = FORMS[form](x, memory, moved, None) - FORMS[form](x, memory, weights, None)
    assert torch.allclose(difference, bias.expand_as(difference), atol=2e-6)


@torch.inference_mode()
def test_queries_folded_once_serve_every_memory() -> None:
    weights = some_weights(24, 16, 3)
    x, memory = some_inputs(1, 4, 5, 9, weights)
    shared = absorbed.attend_folded(absorbed.fold_queries(x, weights), memory, weights)
    assert error(shared, exact(x.expand(5, -1, -1), memory, weights)) < 2e-6


@torch.inference_mode()
def test_kept_memories_are_the_chosen_ones() -> None:
    weights = some_weights(24, 16, 3)
    x, memory = some_inputs(4, 1, 4, 9, weights)
    kept = cached.project(memory, weights).keep(torch.tensor([3, 1]))
    assert kept.num_bytes == 2 * 2 * 9 * 24 * 4
    assert error(cached.attend(x[[3, 1]], kept, weights), exact(x, memory, weights)[[3, 1]]) < 2e-6


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_those_of_the_reference(form: str) -> None:
    weights = some_weights(12, 10, 2)
    x, memory = some_inputs(2, 3, 2, 7, weights)
    direction = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(3))
    leaves = [x, memory, weights.query_DD, weights.key_DM, weights.value_DM, weights.value_bias_D]
    for leaf in leaves:
        leaf.requires_grad_()
    ours = torch.autograd.grad((FORMS[form](x, memory, weights, None) * direction).sum(), leaves)
    reference = torch.autograd.grad((cross_attention(x, memory, weights) * direction).sum(), leaves)
    for mine, theirs in zip(ours, reference, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_sequences_must_share_the_memories_evenly(form: str) -> None:
    weights = some_weights(24, 16, 3)
    x, memory = some_inputs(5, 1, 2, 9, weights)
    with pytest.raises(ValueError, match="5 sequences cannot be shared out evenly among 2 memories"):
        FORMS[form](x, memory, weights, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_DM": torch.zeros(24, 15)}, r"value_DM is \(24, 15\); with key_DM it must be \(24, 16\)"),
        ({"query_bias_D": torch.zeros(1)}, r"query_bias_D is \(1,\)"),
        ({"num_heads": 5}, "num_heads is 5; it must divide the width 24"),
    ],
)
def test_weights_that_disagree_are_named(changes: dict[str, Tensor | int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(some_weights(24, 16, 3), **changes)  # type: ignore[arg-type]
