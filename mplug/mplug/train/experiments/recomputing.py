"""Activation checkpointing: layers that keep their input only and are computed again in the backward pass.

What a step needs of memory then grows with one layer instead of all of them, for about a third more arithmetic (Chen et
al. 2016). Gradients are the same: dropout draws the same numbers the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mplug.errors import ConfigError

MODULES = ("image_encoder", "text_encoder", "fusion_encoder", "text_decoder")
_TOWER_BLOCKS = ("blocks", "transformer.resblocks", "stages")
"""Where timm and open_clip keep a tower's blocks."""


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


def _layers(module: Any) -> Iterator[nn.Module]:
    layers: nn.Module = _blocks(module.backbone.tower) if hasattr(module, "backbone") else module.layers
    yield from layers.children()


def _blocks(tower: nn.Module) -> nn.Module:
    modules: dict[str, nn.Module] = dict(tower.named_modules())
    blocks = next((modules[path] for path in _TOWER_BLOCKS if path in modules), None)
    if blocks is None:
        raise ConfigError(f"the blocks of {type(tower).__name__} are not known; leave image_encoder out")
    if any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in blocks.modules()):
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
