"""The image encoder: bytes to image_tokens.

A trainer that freezes the first stages of an EfficientNet caches their output once and trains the rest:

    features = encoder.stem(pixels, depth=6)      # normalise, conv_stem, bn1, blocks[:6]; cache this map
    tokens = encoder.trunk(features, depth=6)     # blocks[6:], conv_head, bn2, [mean; cells], adapter

and `encoder(pixels)` equals `encoder.trunk(encoder.stem(pixels, d), d)` for every depth d.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mplug.backbones import build_backbone
from mplug.config import ImageEncoderConfig
from mplug.preprocess import PreprocessConfig


def normalise(pixels_B3RR: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Bytes to floats, bit-equal to torchvision's `ToTensor` and `Normalize`.

    Args:
        pixels_B3RR: uint8 (B, 3, R, R).
        mean: per-channel mean on the scale 0..1.
        std: per-channel standard deviation on the scale 0..1.

    Returns:
        float32 (B, 3, R, R), (x / 255 - mean) / std.
    """
    image = pixels_B3RR.to(torch.float32).div_(255)
    mean_311 = torch.tensor(mean, dtype=torch.float32, device=image.device)[:, None, None]
    std_311 = torch.tensor(std, dtype=torch.float32, device=image.device)[:, None, None]
    return image.sub_(mean_311).div_(std_311)


class ImageAdapter(nn.Module):
    """Linear + LayerNorm from the tower's width to the text's (`visn_fc`, `visn_layer_norm` of mPLUG)."""

    def __init__(self, width: int, output_width: int, eps: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, output_width)
        self.norm = nn.LayerNorm(output_width, eps=eps)

    def forward(self, image_BND: Tensor) -> Tensor:
        """(B, N, D of the tower) -> (B, N, D)."""
        normed_BND: Tensor = self.norm(self.linear(image_BND))
        return normed_BND


class ImageEncoder(nn.Module):
    """Vision tower by name, then the adapter where one is configured."""

    def __init__(self, config: ImageEncoderConfig, preprocess: PreprocessConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess = preprocess
        self.backbone = build_backbone(config, preprocess.image_size)
        self.adapter: nn.Module = nn.Identity()
        if config.adapter_width is not None:
            self.adapter = ImageAdapter(config.width, config.adapter_width, config.adapter_eps)

    def forward(self, pixels_B3RR: Tensor) -> Tensor:
        """Bytes to image_tokens.

        Args:
            pixels_B3RR: uint8 (B, 3, R, R), from `mplug.preprocess.to_pixels`.

        Returns:
            (B, N, D); token 0 stands for the picture ([CLS], or the mean of a CNN's last map).

        Raises:
            ValueError: not bytes of the configured size.
        """
        image_BND: Tensor = self.adapter(self.backbone(self.normalised(pixels_B3RR)))
        return image_BND

    @property
    def num_stages(self) -> int:
        """How many stages `stem` and `trunk` can part; 0 where the tower cannot be parted."""
        return self.backbone.num_stages

    def stem(self, pixels_B3RR: Tensor, depth: int) -> Tensor:
        """uint8 (B, 3, R, R) -> the map (B, C, h, w) after the first `depth` stages, to be cached.

        Raises:
            ConfigError: the tower cannot be parted (only timm's EfficientNets can), or not so deep.
        """
        return self.backbone.stem(self.normalised(pixels_B3RR), depth)

    def trunk(self, features_BCHW: Tensor, depth: int) -> Tensor:
        """What `stem` returned for the same depth -> image_tokens (B, N, D)."""
        image_BND: Tensor = self.adapter(self.backbone.trunk(features_BCHW, depth))
        return image_BND

    def normalised(self, pixels_B3RR: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> normalised picture in the tower's dtype."""
        size = self.preprocess.image_size
        if pixels_B3RR.dtype != torch.uint8 or pixels_B3RR.shape[1:] != (3, size, size):
            raise ValueError(
                f"pixels are {pixels_B3RR.dtype} {tuple(pixels_B3RR.shape)}; "
                f"expected uint8 (B, 3, {size}, {size})"
            )
        image = normalise(pixels_B3RR, self.preprocess.mean, self.preprocess.std)
        return image.to(next(self.backbone.parameters()).dtype)
