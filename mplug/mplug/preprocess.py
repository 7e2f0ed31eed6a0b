"""From an RGB picture to the square of bytes that a model takes.

The picture is squashed to a square, never cropped, as mPLUG does: `Resize((R, R), BICUBIC)` of the ModelScope
preprocessor. Normalisation is the model's: `mplug.image_encoder.normalise`, so only bytes travel to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mplug.errors import ConfigError

# OpenAI CLIP's constants, which mPLUG keeps (modelscope MPlugPreprocessor).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessConfig:
    """How pixels reach the image encoder."""

    image_size: int
    """Side R of the square, in pixels."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """Per-channel mean (red, green, blue), on the scale 0..1."""
    std: tuple[float, float, float] = CLIP_STD
    """Per-channel standard deviation, on the scale 0..1."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"preprocess.image_size is {self.image_size}; it must be at least 1 pixel")
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise ConfigError(f"preprocess.{field} has {len(values)} values; it needs three: R, G, B")
        if min(self.std) <= 0:
            raise ConfigError(f"preprocess.std is {self.std}; every value must be above 0")


def to_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Squash an RGB picture to a square of bytes.

    Equal to torchvision's `Resize((size, size), BICUBIC)` on a PIL image (PIL resampling, so antialiased).

    Args:
        image: picture in mode RGB, as `mplug.images.decode_image` returns it.
        size: side R of the square in pixels.

    Returns:
        uint8 (3, size, size), C-contiguous.

    Raises:
        ValueError: the picture is not RGB.
    """
    if image.mode != "RGB":
        raise ValueError(
            f"picture has mode {image.mode}; convert it to RGB first (mplug.images.decode_image does)"
        )
    squashed = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(squashed, dtype=np.uint8).transpose(2, 0, 1))
