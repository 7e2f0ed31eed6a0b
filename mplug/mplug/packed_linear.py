"""Linear layers for few rows, as decoding has them, in the layout that a CPU reads fastest.

One step of decoding multiplies every weight matrix by a handful of rows (five, for five beams), so its time is that
of reading the weights. For such shapes `F.linear` on a CPU spends as long again rearranging them; oneDNN reads
weights that were rearranged once, at twice the speed or more. The price is a second copy of them. Elsewhere (CUDA, a
torch without oneDNN, types that it does not do) these layers are `F.linear`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear:
    """One linear layer, or several that read the same input, their outputs side by side.

    The weights are copied as they are now: who changes them makes a new one.

    Args:
        weights: matrices (outputs, D).
        biases: their vectors (outputs,).
        gelu: apply the exact (erf) GELU to the result.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], *, gelu: bool = False) -> None:
        self._activation = "gelu" if gelu else "none"
        weight, self._bias = weights[0].detach(), biases[0].detach()
        if len(weights) > 1:
            weight, self._bias = torch.cat([*weights]).detach(), torch.cat([*biases]).detach()
        self._packed = can_pack(weight.device.type, weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight

    @classmethod
    def of(cls, *layers: nn.Linear, gelu: bool = False) -> PackedLinear:
        """Take the weights of modules."""
        return cls([layer.weight for layer in layers], [layer.bias for layer in layers], gelu=gelu)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., outputs); not differentiable."""
        if self._packed:
            packed: Tensor = _packed_linear(x.contiguous(), self._weight, self._bias, self._activation)
            return packed
        output = F.linear(x, self._weight, self._bias)
        return output if self._activation == "none" else F.gelu(output)


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return output


@functools.cache
def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Whether oneDNN can do it here; tried once, since torch's doors to it have no promise of stability."""
    if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return False
    weight = torch.linspace(-1, 1, 96).view(12, 8).to(dtype)
    x, bias = weight[:5], weight[:, 0].clone()
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        output = _packed_linear(x, packed, bias, "gelu")
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(output, F.gelu(F.linear(x, weight, bias)), rtol=0.02, atol=0.02)
