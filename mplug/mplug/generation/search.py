"""What the engine needs of a way of choosing tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mplug.generation.events import Event, Hypothesis


@dataclass(frozen=True, slots=True)
class Move:
    """What one step decided, for n items with r sequences each from here on."""

    events: list[Event]
    kept: list[int]
    """Places of the items that go on, among those that had a part in this step; ascending."""
    rows: list[int]
    """For each of the kept items' sequences in turn: which sequence of the same item it goes on from, 0 to r - 1."""
    ids: list[int]
    """Its new token."""

    def only(self, places: Sequence[int]) -> Move:
        """The same decision for some of the kept items alone: those at these places of `kept`, ascending."""
        width = len(self.rows) // max(1, len(self.kept))
        sequences = [place * width + row for place in places for row in range(width)]
        return Move(
            self.events,
            [self.kept[place] for place in places],
            rows=[self.rows[sequence] for sequence in sequences],
            ids=[self.ids[sequence] for sequence in sequences],
        )


def is_broken(choices: Sequence[tuple[int, int, float]]) -> bool:
    """Whether a model gave NaN: of tokens with the beams they go on from and their scores, `topk` puts it first."""
    return math.isnan(choices[0][2])


def broken(text: Sequence[int]) -> Hypothesis:
    """What a text becomes whose model gave NaN: it ends before the token that NaN would have chosen."""
    return Hypothesis(tuple(text), math.nan)


def settled(texts: Sequence[Sequence[int]], start: int) -> list[int]:
    """What texts have alike from a place on: where one of them will be chosen, this is certain."""
    columns = zip(*(text[start:] for text in texts), strict=False)
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]


class Search(Protocol):
    """Chooses tokens for a batch of items until the last of them has ended."""

    def advance(self, logits_SV: Tensor) -> Move:
        """Take the logits of the items that go on.

        Args:
            logits_SV: (S, V); the first time one sequence for each item (its prompt), from then on r.
        """
        ...

    def keep(self, places: Sequence[int]) -> None:
        """Of the items that go on, go on with those at these places alone, ascending."""
        ...
