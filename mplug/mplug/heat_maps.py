"""Heat maps as callers have them, and the words that have one; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mplug.text.tokenizer import WordPieceTokenizer  # its library is the server half's

MOST_WORDS = 64
"""Words of one text that have a map: more than any caption has, and as many overlays as a message should carry."""


@dataclass(frozen=True, slots=True)
class Explain:
    """Asks for heat maps."""

    layer: int | None = None
    """The layer whose cross-attention is read; None: the middle one."""


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Which cells of a picture speak for a word, or for a decision."""

    word: str
    """Empty: the decision as a whole."""
    tokens: tuple[int, ...]
    """Places of the word's pieces in its text."""
    cells_HW: NDArray[np.float32]
    """Each in [0, 1], 1 at the strongest; all 0 where nothing speaks for it."""
    overlay: bytes
    """A JPEG of the picture with the map laid over it."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text."""

    text: str
    tokens: tuple[int, ...]
    """Places of its pieces."""


def words_in(ids: Sequence[int], tokenizer: WordPieceTokenizer) -> list[Word]:
    """The first `MOST_WORDS` words of a text, pieces put together.

    Args:
        ids: the starting token, then the text; special tokens are no words.
        tokenizer: whose ids they are; what is beyond its vocabulary is no word.
    """
    special = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id}
    words: list[list[int]] = []
    for place, number in enumerate(ids[1:], start=1):
        if number in special or number >= len(tokenizer.vocab):
            continue
        goes_on = tokenizer.vocab[number].startswith("##") and words and words[-1][-1] == place - 1
        if goes_on:
            words[-1].append(place)
        else:
            words.append([place])
    return [
        Word(tokenizer.decode([ids[place] for place in word]), tuple(word)) for word in words[:MOST_WORDS]
    ]
