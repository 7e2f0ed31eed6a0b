"""What is tried: shapes that are checked, and shapes that are timed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mplug_kernels.variants import HEAD_WIDTH, Variant

KINDS = ("white", "mean", "outliers", "peaky")
"""Sorts of data: see `data`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One call of cross-attention."""

    name: str
    images: int
    beams: int = 1
    """Sequences that share an image."""
    tokens: int
    """Of each sequence."""
    keys: int
    """Rows of an image."""
    width: int = 768
    dtype: str = "bfloat16"
    ragged: bool = False
    """Whether images differ in length and in how many sequences attend to them."""

    @property
    def heads(self) -> int:
        """Of width 64."""
        return self.width // HEAD_WIDTH

    @property
    def rows(self) -> int:
        """Query rows of one image: heads, sequences and tokens."""
        return self.heads * self.beams * self.tokens

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type itself."""
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def scale(self) -> float:
        """Of scores."""
        return float(HEAD_WIDTH**-0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison with float64."""

    variant: Variant
    shape: Shape
    kind: str
    splits: int

    @property
    def key(self) -> str:
        """Names it among all."""
        return f"check:{self.variant.value}:{self.shape.name}:{self.shape.dtype}:{self.kind}:{self.splits}"


# The six shapes of the design notes' table of expected times come first; then a grid around them.
_FIRST = (
    Shape(name="fusion-base-64x30x577", images=64, tokens=30, keys=577),
    Shape(name="decode-base-64x5x577", images=64, beams=5, tokens=1, keys=577),
    Shape(name="decode-base-1x5x577", images=1, beams=5, tokens=1, keys=577),
    Shape(name="decode-large-64x5x2305", images=64, beams=5, tokens=1, keys=2305, width=1024),
    Shape(name="fusion-base-8x30x2305", images=8, tokens=30, keys=2305),
    Shape(name="fusion-base-256x30x577", images=256, tokens=30, keys=577),
    Shape(name="decode-base-8x10x9217", images=8, beams=10, tokens=1, keys=9217),
    Shape(name="fusion-large-16x30x1025", images=16, tokens=30, keys=1025, width=1024),
)
_WIDTHS = {"base": 768, "large": 1024}
_DECODED = [
    Shape(
        name=f"decode-{size}-{images}x{beams}x{keys}",
        images=images,
        beams=beams,
        tokens=1,
        keys=keys,
        width=width,
    )
    for size, width in _WIDTHS.items()
    for keys in (577, 1025, 2305)
    for images in (1, 4, 16, 64)
    for beams in (1, 5)
]
_FUSED = [
    Shape(
        name=f"fusion-{size}-{images}x{tokens}x{keys}", images=images, tokens=tokens, keys=keys, width=width
    )
    for size, width in _WIDTHS.items()
    for keys in (577, 1025)
    for images in (4, 16, 64)
    for tokens in (12, 30)
]
_HALF = [
    replace(shape, name=f"{shape.name}-half", dtype="float16")
    for shape in (*_FIRST[:2], *_DECODED, *_FUSED)
    if shape.keys == 577 and shape.width == 768
]
TIMED = tuple({shape.name: shape for shape in (*_FIRST, *_DECODED, *_FUSED, *_HALF)}.values())
TINY_TIMED = (
    Shape(name="tiny-fusion", images=2, tokens=3, keys=17, width=128),
    Shape(name="tiny-decode", images=2, beams=2, tokens=1, keys=17, width=128),
)
_CHECKED = (
    Shape(name="one-of-each", images=1, tokens=1, keys=1),
    Shape(name="two-keys", images=2, tokens=2, keys=2, width=384),
    Shape(name="base-577", images=3, tokens=12, keys=577, ragged=True),
    Shape(name="beams-577", images=4, beams=5, tokens=1, keys=577),
    Shape(name="small-50", images=5, tokens=7, keys=50, width=384, ragged=True),
    Shape(name="large-1025", images=2, beams=10, tokens=1, keys=1025, width=1024),
    Shape(name="large-197", images=3, beams=2, tokens=30, keys=197, width=1024, ragged=True),
    Shape(name="long-text", images=2, tokens=64, keys=257, width=768, ragged=True),
    Shape(name="tile-edges", images=3, beams=3, tokens=11, keys=128, width=384),
    Shape(name="past-tile-edges", images=3, beams=2, tokens=32, keys=129, width=768),
    Shape(name="long-2305", images=2, beams=5, tokens=2, keys=2305, ragged=True),
    Shape(name="longest-9217", images=1, beams=3, tokens=4, keys=9217),
)
_SPLITS = (1, 2, 3, 4, 5, 8)
TINY_CHECKED = (
    Shape(name="tiny-one", images=1, tokens=1, keys=1, width=384),
    Shape(name="tiny-ragged", images=3, beams=2, tokens=3, keys=37, width=384, ragged=True),
    Shape(name="tiny-past-tile", images=2, tokens=5, keys=65, width=384),
    Shape(name="tiny-base", images=2, beams=3, tokens=1, keys=33, width=768),
    Shape(name="tiny-large", images=1, beams=2, tokens=3, keys=130, width=1024),
)


def checks(variant: Variant, *, tiny: bool) -> list[Check]:
    """Everything that one kernel is checked on: shapes, both types, data of all sorts, split counts in turn.

    The timed shapes come last: they are large, and each is checked once.
    """
    shapes = TINY_CHECKED if tiny else _CHECKED
    found = []
    for number, shape in enumerate(shapes):
        for dtype in ("bfloat16", "float16"):
            for offset, kind in enumerate(KINDS):
                splits = _SPLITS[(number + offset) % len(_SPLITS)]
                typed = replace(shape, dtype=dtype)
                found.append(Check(variant=variant, shape=typed, kind=kind, splits=splits))
    if not tiny:
        for number, shape in enumerate(TIMED):
            splits = _SPLITS[number % len(_SPLITS)]
            found.append(Check(variant=variant, shape=shape, kind="white", splits=splits))
    return found


def timed(*, tiny: bool) -> tuple[Shape, ...]:
    """What is timed, the most telling first."""
    return TINY_TIMED if tiny else TIMED
