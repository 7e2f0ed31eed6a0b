"""Whether a model looks: what changes when its pictures are replaced by noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def noise_pixels(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Uniform bytes in the shape of a picture or of a batch of them; the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def changed_share(seen: Sequence[str], blind: Sequence[str]) -> float:
    """Share of texts, in percent, that are other ones without the picture; case and spaces do not count.

    Args:
        seen: texts made from the pictures; at least one.
        blind: those made from noise, in the same order.

    Raises:
        ValueError: no texts, or another number of them.
    """
    if not seen:
        raise ValueError("there are no texts to compare; give at least one")
    changed = sum(_plain(one) != _plain(other) for one, other in zip(seen, blind, strict=True))
    return 100 * changed / len(seen)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
