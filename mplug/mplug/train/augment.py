"""What a training picture goes through: a random crop, mirroring, and mPLUG's RandAugment(2, 7).

All chance comes from the generator that the caller hands over, so that a run that goes on sees the same pictures.
The operations and their sizes are those of the reference's code (ALBEF's `randaugment.py`, which mPLUG keeps): two of
ten, drawn with replacement, each done with probability 1/2, at magnitude 7 of 10, on the picture at the model's size.
The pixels are torchvision's and Pillow's work; the reference's OpenCV rounds a little otherwise.
"""

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

F: Any = functional  # annotated for tensors alone, though it takes pictures as well
_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop
_MAX_MAGNITUDE = 10
_MAX_SHEAR = 0.3
_MAX_SHIFT = 10
"""Pixels, whatever the size of the picture."""
_MAX_ANGLE = 30
_FILL = [128.0, 128.0, 128.0]
"""What comes in from outside the picture."""
_SIDES = re.compile(r"\b(?:left|right)(?:most|ward|wards)?\b|[左右]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How much training pictures are changed."""

    min_crop: float = 0.5
    """Smallest area of a crop, as a share of the picture: 0.5 for fine-tuning, 0.2 for pretraining in the reference."""
    mirror: bool = True
    """Whether every second picture is mirrored, unless its texts name a side. The reference mirrors those too and
    leaves the text as it is; words cannot be swapped safely ("right behind", "left the room")."""
    num_operations: int = 2
    """Of RandAugment; 0: none."""
    magnitude: float = 7
    """Of 10."""


def augment(
    image: Image.Image,
    size: int,
    config: AugmentConfig,
    chance: random.Random,
    texts: Iterable[str] = (),
) -> Image.Image:
    """Renders a training picture.

    Args:
        image: in mode RGB, of any size.
        size: side of the square that comes out, in pixels.
        config: how much is changed.
        chance: what is drawn.
        texts: all that is said about it.

    Returns:
        RGB (size, size), as `mplug.preprocess.to_pixels` takes it.
    """
    box = crop_box(chance, image.width, image.height, config.min_crop)
    image = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    mirrored = chance.random() < 0.5  # drawn in any case: what comes after does not depend on the texts
    if mirrored and config.mirror and not names_side(texts):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for _ in range(config.num_operations):
        operation, done = chance.choice(tuple(OPERATIONS)), chance.random() < 0.5
        strength = chance.choice((-1, 1)) * config.magnitude / _MAX_MAGNITUDE
        if done:
            image = OPERATIONS[operation](image, strength)
    return image


def crop_box(chance: random.Random, width: int, height: int, min_area: float) -> tuple[int, int, int, int]:
    """A random part of a picture, as torchvision's RandomResizedCrop draws it, cut to the picture where it is too long.

    Args:
        chance: what is drawn.
        width: of the picture, in pixels.
        height: likewise.
        min_area: smallest area, as a share of the picture.

    Returns:
        Left, top, right, bottom.
    """
    area = width * height * chance.uniform(min_area, 1.0)
    ratio = math.exp(chance.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    left, top = chance.randint(0, width - w), chance.randint(0, height - h)
    return left, top, left + w, top + h


def names_side(texts: Iterable[str]) -> bool:
    """Whether a text speaks of left or right, in English or Chinese."""
    return any(_SIDES.search(text) for text in texts)


def _moved(
    image: Image.Image, shear: tuple[float, float] = (0.0, 0.0), shift: tuple[float, float] = (0.0, 0.0)
) -> Image.Image:
    """Sheared by factors about the upper left corner, as the reference does, and shifted by pixels."""
    moved: Image.Image = F.affine(
        image,
        angle=0.0,
        translate=list(shift),
        scale=1.0,
        shear=[math.degrees(math.atan(factor)) for factor in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=_FILL,
        center=[0.0, 0.0],
    )
    return moved


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    turned: Image.Image = F.rotate(image, degrees, interpolation=InterpolationMode.BILINEAR, fill=_FILL)
    return turned


def _enhancement(strength: float) -> float:
    """A factor between 0.1 and 1.9; brightness and sharpness have no direction in the reference."""
    return abs(strength) * 1.8 + 0.1


OPERATIONS: Mapping[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "AutoContrast": lambda image, _: F.autocontrast(image),
    "Equalize": lambda image, _: F.equalize(image),
    "Brightness": lambda image, strength: F.adjust_brightness(image, _enhancement(strength)),
    "Sharpness": lambda image, strength: F.adjust_sharpness(image, _enhancement(strength)),
    "ShearX": lambda image, strength: _moved(image, shear=(strength * _MAX_SHEAR, 0.0)),
    "ShearY": lambda image, strength: _moved(image, shear=(0.0, strength * _MAX_SHEAR)),
    "TranslateX": lambda image, strength: _moved(image, shift=(strength * _MAX_SHIFT, 0.0)),
    "TranslateY": lambda image, strength: _moved(image, shift=(0.0, strength * _MAX_SHIFT)),
    "Rotate": lambda image, strength: _turned(image, strength * _MAX_ANGLE),
}
"""What RandAugment chooses from; a strength is a share of the largest magnitude, its sign the direction."""
