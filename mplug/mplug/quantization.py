"""Text models whose matrices are int8 or int4, and how far they agree with what they were made of.

Quantized are the linear layers and the table of words that is the output matrix, too. The table is int8 in either case,
since rows are looked up in it, and so is a layer whose shape torch's int4 product cannot read. Everything else is
bfloat16: norms, biases, positions, tables that are looked up alone, classifiers of a few labels, keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

from mplug.cached_decoder import StepwiseDecoder
from mplug.errors import MplugError
from mplug.fusion_encoder import FusionEncoder
from mplug.packed_linear import FrozenLinear
from mplug.quantized_linear import (
    COMPUTED,
    Int4Groups,
    Int8Rows,
    Matrix,
    Quantized,
    QuantizedEmbedding,
    QuantizedLinear,
)

M = TypeVar("M", bound=nn.Module)

INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]  # torch's stubs lack it
QUANTIZED: Mapping[torch.dtype, type[Matrix]] = {torch.int8: Int8Rows, INT4: Int4Groups}
"""What a family's `load` takes for `dtype` beside torch's types of floating point."""
QUANTIZED_NAMES: Mapping[str, torch.dtype] = {"int8": torch.int8, "int4": INT4}
FEW_OUTPUTS = 16
"""Layers of fewer outputs stay: a classifier's few rows weigh nothing and decide everything."""


@torch.no_grad()
def quantize(model: M, dtype: torch.dtype) -> M:
    """Turn a text model's matrices into int8 or int4, in place; the original ones are let go one by one.

    Args:
        model: what a text family's `load` returned; for inference alone from here on.
        dtype: `torch.int8` or `torch.int4`.

    Returns:
        The model, in evaluation mode.

    Raises:
        MplugError: another type, int4 elsewhere than on a CPU, or a model that cannot be quantized.
    """
    device = next(model.parameters()).device
    kind = _check(model, dtype, device)
    for owner, name in _places(model):
        layer = getattr(owner, name)
        quantized = _empty(layer, kind)
        quantized.matrix.take(layer.weight.detach())
        setattr(owner, name, quantized)
    return model.to(COMPUTED).eval()


def lay_out(model: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Put quantized layers, as yet without numbers, in the places of a model's matrices.

    Args:
        model: on the meta device.
        dtype: of `QUANTIZED`.
        device: where the numbers are going to be.

    Raises:
        MplugError: as `quantize`.
    """
    kind = _check(model, dtype, torch.device(device))
    for owner, name in _places(model):
        setattr(owner, name, _empty(getattr(owner, name), kind))


def _check(model: nn.Module, dtype: torch.dtype, device: torch.device) -> type[Matrix]:
    if dtype not in QUANTIZED:
        raise MplugError(f"dtype is {dtype}; quantized types are {', '.join(map(str, QUANTIZED))}")
    if dtype == INT4 and device.type not in ("cpu", "meta"):
        raise MplugError(f"int4 matrices are for CPUs, and the device is {device}; take int8 or bfloat16")
    if any(isinstance(module, FusionEncoder) for module in model.modules()):
        raise MplugError(
            "the matrices of a fusion encoder are read as they are; only text models can be quantized"
        )
    if any(isinstance(module, FrozenLinear) for module in model.modules()):
        raise MplugError("the model is frozen; quantize it in place of that, or before")
    return QUANTIZED[dtype]


def _places(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the layers are that are to be quantized: by owner and name, so that nothing holds the layers themselves."""
    decoders = [module for module in model.modules() if isinstance(module, StepwiseDecoder)]
    return [
        (owner, name)
        for owner in model.modules()
        for name, child in owner.named_children()
        if _is_large(child) or any(child is decoder.words for decoder in decoders)
    ]


def _is_large(layer: nn.Module) -> bool:
    # The type itself: subclasses are read by their owners, not called.
    return type(layer) is nn.Linear and layer.out_features >= FEW_OUTPUTS


def _empty(layer: nn.Linear | nn.Embedding, kind: type[Matrix]) -> Quantized:
    if isinstance(layer, nn.Embedding):
        return QuantizedEmbedding(layer)
    fits = kind.fits(layer.out_features, layer.in_features)
    return QuantizedLinear(layer, kind if fits else Int8Rows)
