"""Matrices of fewer bits: what they are multiplied to is what they are widened to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mplug import quantized_linear
from mplug.packed_linear import PackedLinear
from mplug.quantized_linear import (
    GROUP,
    MANY_ROWS,
    Int4Groups,
    Int8Rows,
    Matrix,
    QuantizedEmbedding,
    QuantizedLinear,
    tied_logits,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(kind: type[Matrix], weight_ND: Tensor) -> Matrix:
    matrix = kind(*weight_ND.shape)
    matrix.take(weight_ND)
    return matrix


def check_product(matrix: Matrix, rows: int, inputs: int) -> None:
    x_PD = drawn(rows, inputs, seed=1).bfloat16()
    wanted = x_PD.float() @ matrix.widened().T
    found = matrix.multiply(x_PD)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), wanted, rtol=0.01, atol=0.02 * float(wanted.abs().max()))


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 70) | st.sampled_from([16, 32, 48, 64]),
    rows=st.integers(1, MANY_ROWS + 3),
)
def test_int8_rows_multiply_as_they_are_widened(outputs: int, inputs: int, rows: int) -> None:
    check_product(filled(Int8Rows, drawn(outputs, inputs)), rows, inputs)


@settings(max_examples=25, deadline=None)
@given(
    outputs=st.integers(1, 20).map(lambda n: 16 * n),
    inputs=st.integers(1, 5).map(lambda n: GROUP * n),
    rows=st.integers(1, MANY_ROWS + 3),
)
def test_int4_groups_multiply_as_they_are_widened(outputs: int, inputs: int, rows: int) -> None:
    check_product(filled(Int4Groups, drawn(outputs, inputs)), rows, inputs)


@pytest.mark.parametrize(("kind", "levels"), [(Int8Rows, 254), (Int4Groups, 15)])
def test_an_error_is_at_most_half_a_level(kind: type[Matrix], levels: int) -> None:
    weight = drawn(64, 2 * GROUP)
    weight[3] = 0.0
    weight[5] = 1e-30
    weight[7] *= 1000
    groups = weight.view(64, -1, GROUP) if kind is Int4Groups else weight[:, None]
    if kind is Int4Groups:
        step = (groups.amax(-1) - groups.amin(-1)) / levels
    else:
        step = 2 * groups.abs().amax(-1) / levels
    error = (filled(kind, weight).widened() - weight).abs().view_as(groups)
    # Scales and zeros are rounded to eight bits themselves.
    slack = 0.01 * groups.abs().amax(-1)
    assert bool((error <= (step / 2 + slack)[..., None] + 1e-30).all())


@pytest.mark.parametrize("kind", [Int8Rows, Int4Groups])
def test_a_matrix_is_quantized_and_multiplied_part_by_part(
    kind: type[Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x_PD = drawn(208, 64), drawn(40, 64, seed=1).bfloat16()
    whole = filled(kind, weight)
    wanted = whole.multiply(x_PD)
    for name in ("ROUNDED_AT_A_TIME", "WIDENED_AT_A_TIME"):
        monkeypatch.setattr(quantized_linear, name, 64 * 64)
    parted = filled(kind, weight)
    assert torch.equal(parted.levels, whole.levels)
    assert torch.equal(parted.multiply(x_PD), wanted)
    assert torch.equal(parted.widened(), whole.widened())


def test_a_table_is_looked_up_and_multiplied_by_the_same_rows() -> None:
    table = nn.Embedding(50, 32)
    quantized = QuantizedEmbedding(table)
    quantized.matrix.take(table.weight.detach())
    ids = torch.tensor([[3, 49], [0, 3]])
    rows = quantized.matrix.widened()
    assert torch.equal(quantized(ids), rows[ids].bfloat16())
    x = drawn(2, 3, 32)
    assert torch.allclose(tied_logits(x, quantized), F.linear(x, rows), atol=0.1)
    assert torch.equal(PackedLinear.tied(quantized)(x), tied_logits(x, quantized))


def test_layers_that_read_the_same_input_lie_side_by_side() -> None:
    layers = [nn.Linear(32, 16), nn.Linear(32, 48)]
    quantized = [QuantizedLinear(layer, Int8Rows) for layer in layers]
    for layer, one in zip(layers, quantized, strict=True):
        one.matrix.take(layer.weight.detach())
    x = drawn(2, 3, 32).bfloat16()
    together = PackedLinear.of(*quantized, gelu=True)(x)
    apart = torch.cat([one(x) for one in quantized], dim=-1)
    assert torch.equal(together, F.gelu(apart))


def test_a_layer_gives_back_its_state_and_takes_none() -> None:
    layer = nn.Linear(32, 16)
    quantized = QuantizedLinear(layer, Int8Rows)
    quantized.matrix.take(layer.weight.detach())
    state = quantized.state_dict()
    assert state.keys() == layer.state_dict().keys()
    assert torch.allclose(state["weight"], layer.weight, atol=0.002)
    with pytest.raises(RuntimeError, match="weight is quantized; load the weights first"):
        quantized.load_state_dict(layer.state_dict())
