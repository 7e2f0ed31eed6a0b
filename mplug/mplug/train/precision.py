"""In which precision a run computes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mplug.retrieval import RetrievalModel


def autocast(precision: str) -> torch.autocast:
    """The autocast of a forward pass, for ``bfloat16`` or ``float32``.

    One context for one forward pass: within it, torch casts a weight once and does not see it change.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def depthwise_in_float32(model: RetrievalModel, frozen_blocks: int) -> None:
    """Takes the depthwise convolutions that gradients pass out of autocast.

    In bfloat16 their backward pass is up to fourteen times slower on a CPU (5x5, stride 2).
    """
    for module in model.image_encoder.backbone.tower.blocks[frozen_blocks:].modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = _without_autocast(module.forward)  # type: ignore[method-assign, assignment]  # of this one


def _without_autocast(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(features: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(features.float())

    return run
