"""Where a model starts: another tower by its name, and weights that a smaller model has already."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from mplug.backbones import measure
from mplug.config import BackboneOption, MplugConfig


def with_backbone(config: MplugConfig, backbone: str) -> MplugConfig:
    """The same model with another vision tower, all sizes that depend on it set.

    Args:
        config: any model's.
        backbone: `timm:NAME` or `open_clip:NAME`.

    Raises:
        ConfigError: an unknown library or name.
    """
    width, built_for = measure(backbone)
    image_size, text_width = config.preprocess.image_size, config.text_encoder.hidden
    options: dict[str, BackboneOption] = {}
    if built_for not in (None, image_size):
        options["img_size" if backbone.startswith("timm:") else "image_size"] = image_size
    image_encoder = dataclasses.replace(
        config.image_encoder,
        backbone=backbone,
        backbone_options=options,
        width=width,
        adapter_width=None if width == text_width else text_width,
    )
    return dataclasses.replace(config, image_encoder=image_encoder)


@torch.no_grad()
def take_over(model: nn.Module, other: nn.Module, *, but: str | None = None) -> list[str]:
    """Copy the tensors that two models have in common, by name and shape.

    Args:
        model: changed in place.
        other: a model of another task, or a smaller one.
        but: what such tensors' names begin with that are not copied.

    Returns:
        The model's tensors that stay as they were.
    """
    theirs, left = other.state_dict(), []
    for name, tensor in model.state_dict().items():
        wanted = but is None or not name.startswith(but)
        if wanted and name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
        else:
            left.append(name)
    return left
