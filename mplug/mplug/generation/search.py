"""What the engine needs of a way of choosing tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mplug.generation.events import Event


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


class Search(Protocol):
    """Chooses tokens for a batch of items until the last of them has ended."""

    def advance(self, logits_SV: Tensor) -> Move:
        """Take the logits of the items that go on.

        Args:
            logits_SV: (S, V); the first time one sequence for each item (its prompt), from then on r.
        """
        ...
