"""A heat map laid over the picture that it explains; needs no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mplug.images import DEFAULT_LIMITS, ImageLimits, decode_image

# Colours from cold to hot at even distances: blue, cyan, green, yellow, red.
COLOURS = np.array([[0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]], dtype=np.float64)

OVERLAY_SIDE = 512
"""Longer side of an overlay in pixels: what a map of some dozen cells a side can show, in about 40 KB."""
JPEG_QUALITY = 85


def overlay(picture: Image.Image, cells_HW: NDArray[np.float32], *, strength: float = 0.6) -> Image.Image:
    """Lay a map over the picture that it explains, from blue (little) to red (most).

    Args:
        picture: of any size and shape; models see it squashed to a square, so cells stretch with it.
        cells_HW: values in [0, 1].
        strength: opacity of the strongest cell; cells of value 0 are left as they are.

    Returns:
        A new RGB picture of the same size.
    """
    cells = Image.fromarray(cells_HW.astype(np.float32))
    heat = np.asarray(cells.resize(picture.size, Image.Resampling.BICUBIC), dtype=np.float64).clip(0, 1)
    stops = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(heat, stops, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    below: NDArray[np.float64] = np.asarray(picture.convert("RGB"), dtype=np.float64)
    share = (strength * heat)[..., None]
    return Image.fromarray(np.rint(below * (1 - share) + colour * share).astype(np.uint8))


def draw_overlays(
    data: bytes, maps: Sequence[NDArray[np.float32]], limits: ImageLimits = DEFAULT_LIMITS
) -> list[bytes]:
    """Draw maps over a picture, each over a copy of its own.

    Args:
        data: the picture's file.
        maps: values in [0, 1], (H, W) each.
        limits: of what is decoded.

    Returns:
        JPEGs, whose longer side is at most `OVERLAY_SIDE` pixels.

    Raises:
        ImageError: not an acceptable picture.
    """
    picture = decode_image(data, limits)
    picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BICUBIC)
    return [_jpeg(overlay(picture, cells_HW)) for cells_HW in maps]


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()
