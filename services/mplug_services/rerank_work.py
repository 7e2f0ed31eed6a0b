"""Work items of reranking; needs no torch.

Legend: R image side, L text tokens, N visual tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug_services.work import WorkItem, WorkKind

MAX_BATCH_VISUAL_TOKENS = 64 * 577
"""Budget of a batch of pairs: 64 pictures of 384 px under 16 px patches. It is cut into quanta by their memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodeImage(WorkItem):
    """One picture whose tokens are wanted. Its cost is its pixels; it gives float32 (N, D)."""

    pixels: NDArray[np.uint8]
    """uint8 (3, R, R)."""

    @property
    def kind(self) -> WorkKind:
        """The vision tower's."""
        return WorkKind.ENCODE

    @property
    def cost(self) -> int:
        """Pixels of the square."""
        return int(self.pixels.shape[1] * self.pixels.shape[2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchPair(WorkItem):
    """One text with one picture. Its cost is its visual tokens; it gives the probability of a match, a float."""

    ids: NDArray[np.int64]
    """int64 (L,), special tokens included."""
    tokens: NDArray[np.float32] | NDArray[np.float16]
    """(N, D), of `EncodeImage` or from a cache."""

    @property
    def kind(self) -> WorkKind:
        """Pairs run with pairs."""
        return WorkKind.RERANK

    @property
    def cost(self) -> int:
        """Visual tokens."""
        return len(self.tokens)

    @property
    def batch_key(self) -> Hashable:
        """The text, which is encoded once."""
        return self.ids.tobytes()
