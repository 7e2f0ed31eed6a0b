"""What would have been possible: arithmetic and bytes of a call, and the machine's two ceilings, measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.shapes import Shape
from bench.timing import time_calls
from mplug_kernels.variants import HEAD_WIDTH

COPIED_BYTES = 2**31
PRODUCT = 8192
SMALL_BYTES, SMALL_PRODUCT = 2**24, 256
"""The same where all is tiny."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device does in a second at most."""

    copy_bytes_per_second: float
    """Of a copy, bytes read and bytes written together."""
    read_bytes_per_second: float
    """Of a sum, which writes next to nothing."""
    flops: float
    """Of a large bfloat16 matrix product."""

    @property
    def bytes_per_second(self) -> float:
        """Of memory traffic, whichever sort is faster."""
        return max(self.copy_bytes_per_second, self.read_bytes_per_second)

    def floor(self, work: Work) -> float:
        """Seconds that no version can run much under."""
        return max(work.flop / self.flops, work.moved / self.bytes_per_second)


@dataclass(frozen=True, slots=True)
class Work:
    """What a call must do."""

    flop: float
    """A multiplication and an addition are two."""
    moved: float
    """Bytes: each input read once, each output written once."""


def measure(device: torch.device, *, tiny: bool) -> Ceilings:
    """Copy, add up and multiply."""
    size, side = (SMALL_BYTES, SMALL_PRODUCT) if tiny else (COPIED_BYTES, PRODUCT)
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    copying = time_calls([lambda: target.copy_(source)], device)
    adding = time_calls([lambda: source.sum()], device)
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    multiplying = time_calls([lambda: left @ right], device)
    return Ceilings(2 * size / copying.seconds, size / adding.seconds, 2 * side**3 / multiplying.seconds)


def cached_work(shape: Shape) -> Work:
    """Attention to keys and values that are there."""
    flop = 4.0 * shape.images * shape.keys * shape.width * shape.beams * shape.tokens
    rows = shape.images * shape.rows
    return Work(flop, 2 * (2 * shape.images * shape.keys * shape.width + 2 * rows * HEAD_WIDTH) + 4 * rows)


def absorbed_work(shape: Shape) -> Work:
    """Attention of folded queries to raw tokens."""
    rows = shape.images * shape.rows
    flop = 4.0 * shape.keys * shape.width * rows
    return Work(flop, 2 * (shape.images * shape.keys * shape.width + 2 * rows * shape.width) + 4 * rows)


def projecting_work(shape: Shape) -> Work:
    """Keys and values made of raw tokens, then attended to; they need not pass through memory."""
    attending = cached_work(shape)
    flop = 4.0 * shape.images * shape.keys * shape.width**2 + attending.flop
    rows = shape.images * shape.rows
    moved = 2 * (shape.images * shape.keys * shape.width + 2 * shape.width**2 + 2 * rows * HEAD_WIDTH)
    return Work(flop, moved)


def folding_work(shape: Shape) -> Work:
    """Queries folded, raw tokens attended to, values unfolded; folded rows need not pass through memory."""
    rows = shape.images * shape.rows
    flop = absorbed_work(shape).flop + 4.0 * rows * HEAD_WIDTH * shape.width
    moved = 2 * (shape.images * shape.keys * shape.width + 2 * shape.width**2 + 2 * rows * HEAD_WIDTH)
    return Work(flop, moved)
