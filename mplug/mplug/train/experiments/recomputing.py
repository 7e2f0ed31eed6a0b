"""Activation checkpointing: layers that keep their input only and are computed again in the backward pass.

What a step needs of memory then grows with one layer instead of all of them, for about a third more arithmetic (Chen et
al. 2016). Gradients are the same: dropout draws the same numbers the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mplug.errors import ConfigError
from mplug.train.blocks import tower_blocks

MODULES = ("image_encoder", "text_encoder", "fusion_encoder", "text_decoder")


def recompute(model: nn.Module, modules: Sequence[str]) -> None:
    """Let the layers of some modules be computed again in the backward pass, in training.

    Args:
        model: changed in place; its parameters keep their names.
        modules: among `MODULES`.

    Raises:
        ConfigError: a module that the model does not have, or a tower whose blocks are not known or hold batch norms,
            whose statistics a second pass would move again.
    """
    for name in modules:
        if name not in MODULES or not hasattr(model, name):
            there = ", ".join(each for each in MODULES if hasattr(model, each))
            raise ConfigError(f"recomputed names {name!r}; this model has {there}")
        for layer in _layers(getattr(model, name)):
            layer.forward = _recomputed(layer.forward)


def _layers(module: Any) -> list[nn.Module]:
    return _blocks(module.backbone.tower) if hasattr(module, "backbone") else list(module.layers)


def _blocks(tower: nn.Module) -> list[nn.Module]:
    blocks = tower_blocks(tower)
    if not blocks:
        raise ConfigError(f"the blocks of {type(tower).__name__} are not known; leave image_encoder out")
    parts = (part for block in blocks for part in block.modules())
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in parts):
        raise ConfigError(
            f"{type(tower).__name__} has batch norms, which must see a batch once; leave image_encoder out"
        )
    return blocks


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        output: Tensor = checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return output

    return run
