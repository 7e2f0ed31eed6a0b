"""Who computes what: the work table of a launch, one item for each block.

The sequences of one image are packed as rows, (sequence, token) in the order of `row_sequence`; a block takes a tile of
rows of one image and one head, and one of `splits` ranges of the image's keys, whole key tiles each. Row tiles of the
same keys are neighbours in the table, so that they find them in the cache. Ranges may be empty (more splits than tiles,
or an image without keys): such an item writes zeros and minus infinity, so that every row has `splits` partial results.

Pure: numbers to numbers. The compiled library holds the same function, and a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Item(NamedTuple):
    """One block's work, in the order of the table's eight columns; `WorkItem` of csrc/plan.h."""

    image: int
    first_sequence: int
    """Where the image's sequences begin in `row_sequence`."""
    sequences: int
    """How many sequences attend to the image."""
    first_row: int
    """Of the image's rows: (head, sequence, token), the head slowest."""
    num_rows: int
    key_begin: int
    key_end: int
    """Not included; may equal `key_begin`."""
    split: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How work is cut.

    Raises:
        ValueError: a number below 1.
    """

    row_tile: int
    """Rows of a block, at most."""
    key_tile: int
    """Keys that a block takes at a time."""
    splits: int = 1
    """Blocks that share the keys of one row tile."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def xattn_plan(
    image_index: Sequence[int], kv_lens: Sequence[int], tokens: int, heads: int, tiling: Tiling
) -> tuple[list[Item], list[int]]:
    """The work table, and the sequences sorted by image.

    Args:
        image_index: of every sequence, the image that it attends to.
        kv_lens: of every image, how many of its rows are attended to.
        tokens: query rows of one sequence (for the absorbed form, heads times tokens, with one head).
        heads: heads with keys of their own.
        tiling: how work is cut.

    Returns:
        items, by image, head, split and row tile; and the sequences in the order that `first_sequence` counts in.

    Raises:
        ValueError: an image that does not exist, a negative length, or no token or head.
    """
    _check(image_index, kv_lens, tokens, heads)
    order = sorted(range(len(image_index)), key=lambda sequence: image_index[sequence])
    items: list[Item] = []
    first = 0
    for image, count in sorted(Counter(image_index).items()):
        group = _Group(image, first, count, count * tokens, kv_lens[image])
        items += _group_items(group, heads, tiling)
        first += count
    return items, order


class _Group(NamedTuple):
    image: int
    first_sequence: int
    sequences: int
    rows: int
    """Of each head."""
    keys: int


def _group_items(group: _Group, heads: int, tiling: Tiling) -> list[Item]:
    image, first_sequence, sequences, rows, keys = group
    return [
        Item(
            image,
            first_sequence,
            sequences,
            head * rows + first,
            min(tiling.row_tile, rows - first),
            *key_range(keys, split, tiling),
            split,
        )
        for head in range(heads)
        for split in range(tiling.splits)
        for first in range(0, rows, tiling.row_tile)
    ]


def key_range(keys: int, split: int, tiling: Tiling) -> tuple[int, int]:
    """Begin and end of one split's keys: equal runs of whole tiles, of which the last may be short or empty."""
    tiles = -(-keys // tiling.key_tile)
    run = -(-tiles // tiling.splits) * tiling.key_tile
    return min(split * run, keys), min((split + 1) * run, keys)


def choose_splits(blocks: int, keys: int, key_tile: int, processors: int) -> int:
    """The fewest splits that keep every processor busy, each of at least four key tiles.

    Args:
        blocks: items of one split.
        keys: of the longest image.
        key_tile: keys that a block takes at a time.
        processors: of the device.
    """
    most = max(1, -(-keys // key_tile) // MIN_TILES)
    wanted = -(-processors * 9 // 10 // max(1, blocks)) if blocks < processors * 9 // 10 else 1
    return max(1, min(most, wanted, MAX_SPLITS))


MIN_TILES = 4
"""Fewer key tiles than these in a split do not repay combining it."""
MAX_SPLITS = 8


def _check(image_index: Sequence[int], kv_lens: Sequence[int], tokens: int, heads: int) -> None:
    if tokens < 1 or heads < 1:
        raise ValueError(f"tokens is {tokens} and heads is {heads}; both must be at least 1")
    for image in image_index:
        if not 0 <= image < len(kv_lens):
            raise ValueError(f"image_index holds {image}; there are {len(kv_lens)} images")
    for image, length in enumerate(kv_lens):
        if length < 0:
            raise ValueError(f"kv_lens of image {image} is {length}; it must be at least 0")
