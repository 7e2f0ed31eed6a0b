"""Matrices of 8 or 4 bits a number, multiplied as they are: a half or a quarter of bfloat16's bytes, and of its time.

A step of decoding takes as long as it takes to read the weights, so fewer bytes are less time. Inputs and outputs are
bfloat16 and are not rounded further: quantizing them as well, which is faster for many rows, measures one range over a
whole batch, and a text would depend on its neighbours. The products are torch's own (`_weight_int8pack_mm`,
`_weight_int4pack_mm_for_cpu`); where there is none, and where many rows share the work, int8 rows are widened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from mplug.checkpoints.quantize import quantize_rows

COMPUTED = torch.bfloat16
"""What is multiplied with, and what everything of a quantized model is that is not a matrix."""
GROUP = 32
"""Inputs that share a scale and a zero in int4: of torch's choices (32, 64, 128, 256) the one of least error."""
ROUNDED_AT_A_TIME = 1 << 18
"""Numbers that are quantized at a time (1 MiB in float32)."""
WIDENED_AT_A_TIME = 1 << 22
"""Numbers that are widened at a time (16 MiB in float32): fewer, and threads wait for each other more often."""
MANY_ROWS = 48
"""From so many rows on it is faster to widen int8 rows and multiply in float32, on a processor without AMX."""


class _Numbers(nn.Module):
    """What a matrix is made of is no part of a state: the layer that owns it writes it, widened."""

    # Any, here and below: the signatures are torch's.
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None: ...

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None: ...


class Int8Rows(_Numbers):
    """A matrix (outputs, D) as int8 rows, each with a scale: row = levels * scale, scale = max|row| / 127.

    Args:
        outputs: rows.
        inputs: their width D.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.levels = _still(torch.empty(outputs, inputs, dtype=torch.int8, device="meta"))
        self.register_buffer("scale", torch.empty(outputs, dtype=COMPUTED, device="meta"))
        self.scale: Tensor

    @staticmethod
    def fits(outputs: int, inputs: int) -> bool:
        """Whether a matrix can be held so."""
        return outputs > 0 and inputs > 0

    def take(self, matrix: Tensor) -> None:
        """Quantize a matrix (outputs, D), where it is."""
        levels = torch.empty(matrix.shape, dtype=torch.int8, device=matrix.device)
        scale = torch.empty(len(matrix), dtype=COMPUTED, device=matrix.device)
        for part in _parts(*matrix.shape, most=ROUNDED_AT_A_TIME):
            levels[part], scale[part] = quantize_rows(matrix[part], COMPUTED)
        self.levels, self.scale = _still(levels), scale

    def multiply(self, x_PD: Tensor) -> Tensor:
        """bfloat16 (P, D) -> (P, outputs)."""
        # torch's kernel reads 16 numbers of a row at a time, and past the end of one that has no such multiple.
        if x_PD.device.type != "cpu" or x_PD.shape[1] % 16 or len(x_PD) >= MANY_ROWS:
            return self._multiply_widened(x_PD)
        product: Tensor = torch.ops.aten._weight_int8pack_mm(x_PD, self.levels, self.scale.to(COMPUTED))
        return product

    def rows(self, numbers: Tensor) -> Tensor:
        """Rows by their numbers, int64 of any shape (...) -> bfloat16 (..., D)."""
        return F.embedding(numbers, self.levels).to(COMPUTED) * self.scale[numbers, None].to(COMPUTED)

    def widened(self) -> Tensor:
        """float32 (outputs, D)."""
        return self.levels.float() * self.scale.float()[:, None]

    def _multiply_widened(self, x_PD: Tensor) -> Tensor:
        # bfloat16 is no faster than float32 on most processors, on a GPU it is.
        kind = torch.float32 if x_PD.device.type == "cpu" else COMPUTED
        x_PD = x_PD.to(kind)
        products = [
            (F.linear(x_PD, self.levels[part].to(kind)) * self.scale[part]).to(COMPUTED)
            for part in _parts(*self.levels.shape, most=WIDENED_AT_A_TIME)
        ]
        return products[0] if len(products) == 1 else torch.cat(products, dim=1)


class Int4Groups(_Numbers):
    """A matrix (outputs, D) of 4 bits a number: number = (level - 8) * scale + zero, both of a group of inputs.

    Args:
        outputs: rows.
        inputs: their width D.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.levels = _still(torch.empty(outputs, inputs // 2, dtype=torch.uint8, device="meta"))
        """Two a byte, in the layout of torch's product on a CPU."""
        scales = torch.empty(inputs // GROUP, outputs, 2, dtype=COMPUTED, device="meta")
        self.register_buffer("scale_zero", scales)
        self.scale_zero: Tensor

    @staticmethod
    def fits(outputs: int, inputs: int) -> bool:
        """Whether torch's product can read such a matrix."""
        return outputs % 16 == 0 and inputs % GROUP == 0

    def take(self, matrix: Tensor) -> None:
        """Quantize a matrix (outputs, D) on the CPU."""
        outputs, inputs = matrix.shape
        levels = torch.empty(outputs, inputs // 2, dtype=torch.uint8)
        scale_zero = torch.empty(inputs // GROUP, outputs, 2, dtype=COMPUTED)
        for part in _parts(outputs, inputs, most=ROUNDED_AT_A_TIME, multiple=64):
            found, scale_zero[:, part] = _four_bits(matrix[part])
            levels[part] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(found, 1)
        self.levels, self.scale_zero = _still(levels), scale_zero

    def multiply(self, x_PD: Tensor) -> Tensor:
        """bfloat16 (P, D) -> (P, outputs)."""
        scale_zero = self.scale_zero.to(COMPUTED)
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_PD, self.levels, GROUP, scale_zero)
        return product

    def widened(self) -> Tensor:
        """float32 (outputs, D)."""
        # The layout is torch's own affair: what the matrix does to the unit vectors are its columns.
        inputs = 2 * self.levels.shape[1]
        units, step = torch.eye(inputs, dtype=COMPUTED), max(ROUNDED_AT_A_TIME // inputs, 1)
        return torch.cat([self.multiply(some) for some in torch.split(units, step)]).T.float()


Matrix = Int8Rows | Int4Groups


class Quantized(nn.Module):
    """A layer for inference whose matrix is quantized. Nothing can be loaded into it, or learnt by it.

    Its state is that of the layer it stands for, the matrix widened to float32.
    """

    matrix: Matrix
    bias: Tensor | None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.matrix.widened()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        error_msgs.append(f"{prefix}weight is quantized; load the weights first and quantize the model then")


class QuantizedLinear(Quantized):
    """A linear layer.

    Args:
        layer: gives its shape and its bias.
        kind: how the matrix is held; it has no numbers until `matrix.take`.
    """

    def __init__(self, layer: nn.Linear, kind: type[Matrix]) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.matrix = kind(layer.out_features, layer.in_features)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., outputs), of x's type; not differentiable."""
        return multiply(x, self.matrix, self.bias)


class QuantizedEmbedding(Quantized):
    """A table of words, and the output matrix, from the same int8 rows.

    Args:
        table: gives its shape; the rows have no numbers until `matrix.take`.
    """

    matrix: Int8Rows

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.bias = None
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.matrix = Int8Rows(table.num_embeddings, table.embedding_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (...) -> bfloat16 (..., D)."""
        return self.matrix.rows(ids)


def multiply(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    """(..., D) -> (..., outputs), of x's type; not differentiable."""
    rows_PD = x.detach().to(COMPUTED).reshape(-1, x.shape[-1])
    product_PN = matrix.multiply(rows_PD.contiguous()).to(x.dtype)
    if bias is not None:
        product_PN.add_(bias.detach())
    return product_PN.view(*x.shape[:-1], product_PN.shape[1])


def tied_logits(x: Tensor, words: nn.Module, bias_V: Tensor | None = None) -> Tensor:
    """Multiply by a table of words, (..., D) -> (..., V); differentiable where the table is torch's.

    Args:
        x: states.
        words: an `nn.Embedding` or a `QuantizedEmbedding`.
        bias_V: added; None = nothing.
    """
    if isinstance(words, QuantizedEmbedding):
        return multiply(x, words.matrix, bias_V)
    assert isinstance(words, nn.Embedding)
    if isinstance(words.weight, DTensor):
        # Rows are parted among processes: each multiplies by its own, and all get all logits.
        whole = DTensor.from_local(x, words.weight.device_mesh, [Replicate()])
        logits = F.linear(whole, words.weight)
        assert isinstance(logits, DTensor)
        everywhere: Tensor = logits.full_tensor()
        return everywhere if bias_V is None else everywhere + bias_V
    return F.linear(x, words.weight, bias_V)


def _four_bits(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Levels int32 (rows, D), 0 to 15, and scales with zeros bfloat16 (groups, rows, 2)."""
    groups = matrix.float().reshape(len(matrix), -1, GROUP)
    least, most = groups.aminmax(dim=-1)
    # Rounded first, so that the levels make up for what that changes.
    scale = ((most - least) / 15).clamp_(min=torch.finfo(COMPUTED).smallest_normal).to(COMPUTED)
    zero = (least + 8 * scale.float()).to(COMPUTED)
    levels = ((groups - zero.float()[..., None]) / scale.float()[..., None]).round_().add_(8).clamp_(0, 15)
    return levels.flatten(1).to(torch.int32), torch.stack([scale, zero], dim=-1).transpose(0, 1)


def _parts(rows: int, width: int, *, most: int, multiple: int = 1) -> Iterator[slice]:
    step = max(most // width // multiple, 1) * multiple
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _still(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
