"""The compiled kernels by name, and how each cuts its work; the numbers of csrc/plan.h, and a test compares them."""

from __future__ import annotations

import enum

import torch

from mplug_kernels.planner import Tiling, choose_splits

HEAD_WIDTH = 64
"""The only head width K that is compiled."""
WIDTHS = (384, 768, 1024)
"""Widths D of an image's rows that are compiled."""
DTYPES = (torch.float16, torch.bfloat16)
"""Types that are compiled."""


class Variant(enum.Enum):
    """A compiled kernel."""

    KV = "kv"
    """`xattn_kv`."""
    ABSORBED_TWO = "absorbed_two"
    """`xattn_absorbed`, two matrix products with statistics between them."""
    ABSORBED_ONE = "absorbed_one"
    """`xattn_absorbed`, a single pass."""

    @property
    def absorbed(self) -> bool:
        """Whether raw tokens are attended to."""
        return self is not Variant.KV

    @property
    def form(self) -> int:
        """The operator's argument `form`; 0 where there is none."""
        return int(self is Variant.ABSORBED_ONE)

    @property
    def tile(self) -> tuple[int, int]:
        """Rows of a block, at most, and keys that it takes at a time."""
        return _TILES[self]

    def tiling(self, splits: int) -> Tiling:
        """How its work is cut."""
        row_tile, key_tile = self.tile
        return Tiling(row_tile=row_tile, key_tile=key_tile, splits=splits)

    def splits(self, images: int, rows: int, keys: int, processors: int) -> int:
        """How many blocks should share the keys of one row tile.

        Args:
            images: in one call.
            rows: of one image: heads times sequences times tokens.
            keys: of the longest image.
            processors: of the device.
        """
        row_tile, key_tile = self.tile
        return choose_splits(images * -(-rows // row_tile), keys, key_tile, processors)


_TILES = {Variant.KV: (64, 64), Variant.ABSORBED_TWO: (128, 128), Variant.ABSORBED_ONE: (32, 32)}
