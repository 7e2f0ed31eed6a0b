"""The blocks that a model's stacks are made of: what can be gathered, or computed again, one at a time."""

from __future__ import annotations

from torch import nn

from mplug.backbones import Backbone
from mplug.layers import BertLayer, CrossLayer

_TOWER_BLOCKS = ("blocks", "transformer.resblocks", "stages")
"""Where timm and open_clip keep a tower's blocks."""


def model_blocks(model: nn.Module) -> list[nn.Module]:
    """All blocks of a model: layers of text encoder, fusion and decoder, and those of vision towers that are known."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, BertLayer | CrossLayer):
            found.append(module)
        elif isinstance(module, Backbone):
            found += tower_blocks(module.tower)
    return found


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """A vision tower's blocks; none where it is not known where they are."""
    modules = dict(tower.named_modules())
    stack = next((modules[path] for path in _TOWER_BLOCKS if path in modules), None)
    return [] if stack is None else list(stack.children())
