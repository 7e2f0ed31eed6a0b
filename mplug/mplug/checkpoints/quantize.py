"""int8 rows with fp16 scales: a quarter of the bytes, widened to float32 at load.

Every float tensor of two or more dimensions is stored as `NAME`, int8 of its own shape, and `NAME.scale`,
float16 with one value per row (first dimension): row = int8 * scale, scale = max|row| / 127. Other float
tensors are stored as float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE_SUFFIX = ".scale"


def quantize_rows(tensor: Tensor, scale_type: torch.dtype = torch.float16) -> tuple[Tensor, Tensor]:
    """Round each row to 255 levels.

    Args:
        tensor: float, two or more dimensions.
        scale_type: float16 or bfloat16.

    Returns:
        int8 of the same shape, and the scales (rows,); the largest error of a row is half its scale.
    """
    rows = tensor.detach().to(torch.float32).flatten(1)
    largest = rows.abs().amax(dim=1) if rows.shape[1] else rows.new_zeros(len(rows))
    # float16 ends at 65504 and is coarse below 6e-5: round the scale first, then divide by what will be read.
    scale = (largest / 127).clamp(max=torch.finfo(scale_type).max).to(scale_type)
    scale = torch.where((scale == 0) & (largest > 0), torch.finfo(scale_type).smallest_normal, scale)
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale).to(torch.float32)
    levels = (rows / divisor[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return levels.reshape(tensor.shape), scale


def widen_rows(levels: Tensor, scale: Tensor) -> Tensor:
    """Back to float32: levels * scale, row by row."""
    broadcast = scale.to(torch.float32).reshape(-1, *[1] * (levels.dim() - 1))
    return levels.to(torch.float32) * broadcast


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store a state dict as int8 rows, float16 scales, and float32 for the rest."""
    stored: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dim() >= 2:
            stored[key], stored[key + SCALE_SUFFIX] = quantize_rows(tensor)
        else:
            stored[key] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    return stored


def widen(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `quantize`; a state dict without int8 rows comes back as it is."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        if key.endswith(SCALE_SUFFIX) and key.removesuffix(SCALE_SUFFIX) in stored:
            continue
        scale = stored.get(key + SCALE_SUFFIX)
        tensors[key] = tensor if scale is None else widen_rows(tensor, scale)
    return tensors
