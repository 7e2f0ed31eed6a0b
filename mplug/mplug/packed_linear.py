"""Linear layers in the layout that a CPU reads fastest.

One step of decoding multiplies every weight matrix by a handful of rows (five, for five beams), so its time is that
of reading the weights; `F.linear` on a CPU spends as long again rearranging them. With many rows, as in a vision
tower, oneDNN's own layout is about twice as fast as well. `PackedLinear` makes a rearranged copy and leaves the
module as it is; `FrozenLinear` takes the module's place and keeps the rearranged weights alone (`mplug.freezing`).
Elsewhere (CUDA, a torch without oneDNN, types that it does not do) both are `F.linear`. Quantized matrices
(`mplug.quantized_linear`) are read as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mplug.layers import Approximation
from mplug.quantized_linear import (
    Int4Groups,
    Int8Rows,
    Matrix,
    QuantizedEmbedding,
    QuantizedLinear,
    multiply,
    tied_logits,
)

Weight = Tensor | Matrix | nn.Linear | nn.Embedding
"""A matrix; or a module of which each process holds a part (`mplug.tensor_parallel`), to be called as it is."""


class FrozenLinear(nn.Module):
    """A linear layer for inference: weights that nobody changes, held once, in oneDNN's layout where there is one.

    Its state is that of the `nn.Linear` it was made from; nothing can be loaded into it. Gradients pass through to its
    input, not to its weights.

    Args:
        layer: gives its weights.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.stored = _frozen(_pack(layer.weight.detach()))
        self.bias = None if layer.bias is None else _frozen(layer.bias.detach())

    @property
    def weight(self) -> Tensor:
        """(outputs, D) in the usual layout: a copy, where the stored one is another."""
        return self.stored.to_dense() if self.stored.is_mkldnn else self.stored

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., outputs)."""
        if not self.stored.is_mkldnn or (x.requires_grad and torch.is_grad_enabled()):
            return F.linear(x, self.weight, self.bias)
        return _packed_linear(x.contiguous(), self.stored, self.bias)

    # Any, here and below: the signatures are torch's.
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight
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
        error_msgs.append(f"{prefix}weight is frozen; load the weights first and freeze the model then")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenLinear:
        self.stored = _frozen(_pack(fn(self.weight)))
        if self.bias is not None:
            self.bias = _frozen(fn(self.bias))
        return self


class PackedLinear:
    """One linear layer, or several that read the same input, their outputs side by side.

    The weights are copied as they are now, so who changes them makes a new one; those of frozen and of quantized layers
    are shared.

    Args:
        weights: matrices (outputs, D).
        biases: their vectors (outputs,).
        gelu: apply the GELU to the result.
        approximate: `none` = exactly (erf), `tanh` = by the formula with tanh.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        gelu: bool = False,
        approximate: Approximation = "none",
    ) -> None:
        self._approximate: Approximation | None = approximate if gelu else None
        weight, bias = weights[0].detach(), biases[0].detach()
        if len(weights) > 1:
            weight, bias = torch.cat([*weights]).detach(), torch.cat([*biases]).detach()
        self._parts: list[tuple[Weight, Tensor | None]] = [(_pack(weight), bias)]

    @classmethod
    def of(
        cls,
        *layers: nn.Linear | FrozenLinear | QuantizedLinear,
        gelu: bool = False,
        approximate: Approximation = "none",
    ) -> PackedLinear:
        """Take the weights of modules."""
        held = [_held(layer) for layer in layers if _is_held(layer)]
        if not held:
            plain = [layer for layer in layers if isinstance(layer, nn.Linear)]
            weights, biases = [layer.weight for layer in plain], [layer.bias for layer in plain]
            return cls(weights, biases, gelu=gelu, approximate=approximate)
        assert len(held) == len(layers), "layers that read the same input are frozen or quantized together"
        packed = cls.__new__(cls)
        packed._approximate = approximate if gelu else None
        packed._parts = held
        return packed

    @classmethod
    def tied(cls, words: nn.Module, bias_V: Tensor | None = None) -> PackedLinear:
        """Take a table of words, an `nn.Embedding` or a `QuantizedEmbedding`, as the output matrix."""
        packed = cls.__new__(cls)
        packed._approximate = None
        if isinstance(words, QuantizedEmbedding):
            packed._parts = [(words.matrix, bias_V)]
        elif isinstance(words, nn.Embedding) and isinstance(words.weight, DTensor):
            packed._parts = [(words, bias_V)]
        else:
            assert isinstance(words, nn.Embedding)
            packed._parts = [(_pack(words.weight.detach()), bias_V)]
        return packed

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., outputs); not differentiable."""
        x = x.contiguous()
        outputs = [_linear(x, weight, bias, self._approximate) for weight, bias in self._parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def _is_held(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Linear) or isinstance(layer.weight, DTensor)


def _held(layer: nn.Linear | FrozenLinear | QuantizedLinear) -> tuple[Weight, Tensor | None]:
    if isinstance(layer, nn.Linear):
        return layer, None
    return (layer.matrix if isinstance(layer, QuantizedLinear) else layer.stored), layer.bias


def _linear(x: Tensor, weight: Weight, bias: Tensor | None, gelu: Approximation | None) -> Tensor:
    if isinstance(weight, nn.Linear):
        output = weight(x)
    elif isinstance(weight, nn.Embedding):
        output = tied_logits(x, weight, bias)
    elif isinstance(weight, Int8Rows | Int4Groups):
        output = multiply(x, weight, bias)
    elif weight.is_mkldnn:
        return _packed_linear(x, weight, bias, gelu)
    else:
        output = F.linear(x, weight, bias)
    return output if gelu is None else F.gelu(output, approximate=gelu)


def _packed_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, gelu: Approximation | None = None
) -> Tensor:
    activation = "none" if gelu is None else "gelu"
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], gelu or "none")
    return output


def _pack(weight: Tensor) -> Tensor:
    """The weight in oneDNN's layout; as it is, where there is none."""
    if not can_pack(weight.device.type, weight.dtype):
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


@functools.cache
def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Whether oneDNN can do it here; tried once, since torch's doors to it have no promise of stability."""
    if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return False
    weight = torch.linspace(-1, 1, 96).view(12, 8).to(dtype)
    x, bias = weight[:5], weight[:, 0].clone()
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        output = _packed_linear(x, packed, bias, "none")
        if not (packed.is_mkldnn and torch.equal(packed.to_dense(), weight)):
            return False
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(output, F.gelu(F.linear(x, weight, bias)), rtol=0.02, atol=0.02)
