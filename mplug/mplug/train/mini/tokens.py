"""image_tokens of every view, made once by the tower that stands still; outside the tree, made anew where they lack."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mplug.image_encoder import ImageEncoder
from mplug.train.features import RowsOfViews, View, cache_root, device_of, fill_rows, view_pixels


class TokenCache(RowsOfViews):
    """image_tokens (N, D) of views, float16 on disk, read through memory mapping.

    Args:
        rows: of all views.
        views: a row each.
        device: where they are wanted.
    """

    def __init__(self, rows: NDArray[np.float16], views: Sequence[View], device: torch.device) -> None:
        super().__init__(rows, views)
        self.device = device

    def read(self, keys: Sequence[tuple[str, int]]) -> Tensor:
        """Float32 (B, N, D) of (path, view number) pairs."""
        return self._here([self.row(key) for key in keys])

    def first(self, keys: Sequence[tuple[str, int]]) -> Tensor:
        """Float32 (B, 1, D): token 0 alone, which stands for the picture."""
        return self._here([self.row(key)[:1] for key in keys])

    def _here(self, rows: Sequence[NDArray[np.float16]]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self.device).float()


def open_tokens(folder: Path, views: list[View], encoder: ImageEncoder, min_crop: float) -> TokenCache:
    """Opens the tokens of these views, making what is missing of them.

    They are made in float32, as served pictures are.

    Args:
        folder: The data folder the views' paths are relative to.
        views: From `list_views`.
        encoder: In evaluation mode.
        min_crop: Smallest crop, as a share of the picture.
    """
    size, device = encoder.preprocess.image_size, device_of(encoder)

    def make(pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        with torch.inference_mode():
            tokens: Tensor = encoder(torch.from_numpy(pixels).to(device)).to(torch.float16)
        rows: NDArray[np.float16] = tokens.cpu().numpy()
        return rows

    return TokenCache(
        fill_rows(
            cache_root() / "image-tokens" / _cache_key(views, encoder, min_crop),
            views,
            lambda view: view_pixels(folder, view, size, min_crop),
            make,
        ),
        views,
        device,
    )


def _cache_key(views: list[View], encoder: ImageEncoder, min_crop: float) -> str:
    digest = hashlib.sha256(f"{encoder.preprocess} {encoder.config} {min_crop}".encode())
    for view in views:
        digest.update(f"{view.path} {view.number} {view.flip}\n".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
