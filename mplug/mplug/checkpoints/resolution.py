"""Another image size than the checkpoint's: the table of position embeddings is resized.

Method: bilinear over the grid of patches, `align_corners=False`, no antialiasing, the rows of class and register tokens
kept: what the fine-tuning scripts of mPLUG do (`resize_pos_embed` of X-PLUG/mPLUG). ModelScope's class does not resize:
its interpolation leaves the table of a new size at zero.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.config import ImageEncoderConfig
from mplug.errors import ConfigError
from mplug.image_encoder import ImageEncoder
from mplug.task_model import TaskModel

TABLES = ("backbone.tower.pos_embed", "backbone.tower.positional_embedding")
"""Names of timm's and open_clip's table in an `ImageEncoder`."""

M = TypeVar("M", bound=TaskModel)


def at_image_size(model: M, image_size: int) -> M:
    """Give a loaded model another image size; its vectors then belong to another index.

    Args:
        model: changed in place; a float32 model keeps all the precision there is.
        image_size: side R of the square in pixels; a multiple of the patch where the tower has patches.

    Returns:
        The same model. Saved in our own layout it stays at the new size.

    Raises:
        ConfigError: no multiple of the patch, or a tower whose size is in more than one table.
    """
    old = model.image_encoder
    if not isinstance(old, ImageEncoder):
        raise ConfigError(f"{type(model).__name__} has no image encoder to resize")
    if image_size == model.config.preprocess.image_size:
        return model
    config = dataclasses.replace(
        model.config,
        image_encoder=_resized_config(old, image_size),
        preprocess=dataclasses.replace(model.config.preprocess, image_size=image_size),
    )
    new = ImageEncoder(config.image_encoder, config.preprocess)
    new.load_state_dict(_resized_tensors(old, new))
    some = next(old.parameters())
    model.image_encoder = new.to(device=some.device, dtype=some.dtype)
    model.config = config
    training = model.training
    model.train()  # forgets a fingerprint that was read before
    model.train(training)
    return model


def resize_positions(table_ND: Tensor, grid: int, *, prefix: int = 1) -> Tensor:
    """Resize a table of position embeddings of a square grid.

    Args:
        table_ND: (prefix + old * old, D).
        grid: patches along one side of the new grid.
        prefix: rows in front that belong to no patch.

    Returns:
        (prefix + grid * grid, D), of the same dtype.

    Raises:
        ValueError: the rows behind the prefix are no square.
    """
    count = len(table_ND) - prefix
    old = math.isqrt(max(count, 0))
    if old * old != count or not count:
        raise ValueError(f"a table of {len(table_ND)} rows is no square grid behind {prefix} of its own")
    if old == grid:
        return table_ND
    cells_1DGG = table_ND[prefix:].float().view(1, old, old, -1).permute(0, 3, 1, 2)
    resized_1DGG = F.interpolate(cells_1DGG, size=(grid, grid), mode="bilinear", align_corners=False)
    cells_ND = resized_1DGG.flatten(2)[0].T.to(table_ND.dtype)
    return torch.cat([table_ND[:prefix], cells_ND])


def _resized_config(encoder: ImageEncoder, image_size: int) -> ImageEncoderConfig:
    config, tower = encoder.config, encoder.backbone.tower
    patch = _patch_size(tower)
    if patch is None:
        return config  # a CNN takes any size
    if image_size < patch or image_size % patch:
        below = max(1, image_size // patch) * patch
        raise ConfigError(
            f"image_size is {image_size}; {config.backbone} has patches of {patch} pixels: take {below} or "
            f"{below + patch}"
        )
    key = "img_size" if config.backbone.startswith("timm:") else "image_size"
    return dataclasses.replace(config, backbone_options={**config.backbone_options, key: image_size})


def _patch_size(tower: Any) -> int | None:
    size = getattr(tower, "patch_size", None) or getattr(
        getattr(tower, "patch_embed", None), "patch_size", None
    )
    return None if size is None else int(size[0])


def _resized_tensors(old: ImageEncoder, new: ImageEncoder) -> dict[str, Tensor]:
    tensors, wanted = old.state_dict(), new.state_dict()
    for name, tensor in tensors.items():
        if tensor.shape == wanted[name].shape:
            continue
        if name not in TABLES:
            raise ConfigError(
                f"{old.config.backbone} cannot take another image size: {name} would have to change from "
                f"{tuple(tensor.shape)} to {tuple(wanted[name].shape)}, and only a position table can be resized"
            )
        tensors[name] = _resized_table(tensor, wanted[name].shape, old.backbone.tower)
    return tensors


def _resized_table(table: Tensor, shape: torch.Size, tower: nn.Module) -> Tensor:
    # timm keeps a batch dimension, and in some towers no rows for class and register tokens.
    prefix = int(getattr(tower, "num_prefix_tokens", 1))
    if getattr(tower, "no_embed_class", False):
        prefix = 0
    grid = math.isqrt(shape[-2] - prefix)
    return resize_positions(table.view(-1, table.shape[-1]), grid, prefix=prefix).view(shape)
