"""Work items of explanations; needs no torch.

Legend: R image side, L text tokens, N visual tokens, D their width, H and W cells of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug.heat_maps import Word
from mplug_services.generation_work import PictureItem
from mplug_services.work import WorkItem, WorkKind

EXPLAIN_BUDGET = 1
"""Every item costs more than that, and so runs alone: passes of different texts have nothing to share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExplainWords(PictureItem):
    """Words of a text that a model wrote. Gives a list of float32 (H, W), one for each word."""

    task: str
    """`caption` or `vqa`: whose text it is."""
    question: NDArray[np.int64] | None = None
    """int64 (L,), special tokens included, where the text is an answer."""
    ids: tuple[int, ...]
    """The text, from its starting token on."""
    words: tuple[Word, ...]
    layer: int | None

    @property
    def kind(self) -> WorkKind:
        """Explanations are a kind of their own, whatever the model."""
        return WorkKind.EXPLAIN

    @property
    def cost(self) -> int:
        """Pixels of the square."""
        return self.num_pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExplainMatch(WorkItem):
    """What speaks for a match of a text and a picture. Gives float32 (H, W)."""

    ids: NDArray[np.int64]
    """int64 (L,), special tokens included."""
    tokens: NDArray[np.float32] | NDArray[np.float16]
    """(N, D), those that were scored."""
    layer: int | None

    @property
    def kind(self) -> WorkKind:
        """Explanations are a kind of their own, whatever the model."""
        return WorkKind.EXPLAIN

    @property
    def cost(self) -> int:
        """Numbers of its tokens."""
        return self.tokens.size
