"""Models for inference alone: their matrices once, in the layout that this machine's processor reads fastest.

`freeze` is for who serves. A frozen model gives the numbers it gave before up to rounding, its `state_dict` is the
same, and explanations (`mplug.explain`) work; it cannot be trained, copied or loaded into.
"""

from __future__ import annotations

from typing import TypeVar

import timm.layers
import torch
from open_clip import transformer as open_clip_transformer
from torch import Tensor, nn

from mplug.cached_decoder import StepwiseDecoder
from mplug.fusion_encoder import FusionEncoder
from mplug.packed_linear import FrozenLinear, can_pack

M = TypeVar("M")

QUICK_GELUS = (timm.layers.QuickGELU, open_clip_transformer.QuickGELU)


# Ordinary tensors even for who freezes in inference mode: explanations need gradients through them.
@torch.inference_mode(False)
def freeze(model: M) -> M:
    """Turn a model's linear layers into `FrozenLinear`, in place; the original weights are let go one by one.

    On a processor that has no layout of its own (a GPU) nothing is done.

    Args:
        model: what `mplug.load` returned, or any module; in evaluation mode from here on. Modules that it shares with
            other models are frozen with it.

    Returns:
        The model.

    Raises:
        TypeError: it is no module of torch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} is no module of torch; only these can be frozen")
    model.eval()
    raw: set[nn.Module] = {
        layer
        for module in model.modules()
        if isinstance(module, FusionEncoder)
        for layer in module.raw_projections()
    }
    # Owners alone: a list of all modules would keep every original until the end.
    for module in [module for module in model.modules() if type(module) is not nn.Linear]:
        _freeze_children(module, raw)
        if isinstance(module, StepwiseDecoder):
            module.drop_packed()
    return model


def _freeze_children(module: nn.Module, raw: set[nn.Module]) -> None:
    for name, child in list(module.named_children()):
        # The type itself: subclasses are read by their owners, not called.
        if type(child) is nn.Linear and child not in raw and _fits(child):
            setattr(module, name, FrozenLinear(child))
        elif isinstance(child, QUICK_GELUS):
            setattr(module, name, _QuickGelu())


def _fits(layer: nn.Linear) -> bool:
    return can_pack(layer.weight.device.type, layer.weight.dtype)


class _QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), as CLIP has it, with one large tensor made in place of three."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if x.requires_grad and torch.is_grad_enabled():
            return torch.sigmoid(x * 1.702) * x
        return torch.sigmoid_(x * 1.702).mul_(x)
