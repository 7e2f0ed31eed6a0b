"""What the engine needs of a way of choosing tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from mplug.generation.events import Event, Hypothesis, Token


class Choice(NamedTuple):
    """A token that a beam may go on with."""

    token: int
    beam: int
    """Which of its item's."""
    value: float
    """Of the text with it; what choices are compared by."""
    log_prob: float
    """Of the token alone, as of `Hypothesis`."""


@dataclass(frozen=True, slots=True)
class Beam:
    """One of the texts that a search holds."""

    ids: tuple[int, ...]
    """Prompt included."""
    log_probs: tuple[float, ...] = ()

    def extended(self, choice: Choice) -> Beam:
        """The text with one more token."""
        return Beam((*self.ids, choice.token), (*self.log_probs, choice.log_prob))

    def scored(self, score: float) -> Hypothesis:
        """The text as a result."""
        return Hypothesis(self.ids, score, self.log_probs)


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


def read_choices(
    tokens_Br: Tensor, beams_Br: Tensor, values_Br: Tensor, log_probs_Br: Tensor
) -> list[list[Choice]]:
    """Each item's choices, in their order: int64 tokens and beams, float32 values and log-probabilities (B, r)."""
    # One transfer: ids and float32 numbers are exact in float64.
    columns = (tokens_Br, beams_Br, values_Br, log_probs_Br)
    table = torch.stack([column.double() for column in columns], dim=-1).tolist()
    return [
        [Choice(int(token), int(beam), value, log_prob) for token, beam, value, log_prob in item]
        for item in table
    ]


def is_broken(choices: Sequence[Choice]) -> bool:
    """Whether a model gave NaN: `topk` puts it first, and then a text ends before the token that NaN would choose."""
    return math.isnan(choices[0].value)


def settled(texts: Sequence[Beam | Hypothesis], start: int) -> int:
    """To which place texts are alike, from a place on: where one of them will be chosen, so much is certain."""
    columns = zip(*(text.ids[start:] for text in texts), strict=False)
    return start + sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def tokens(item: int, text: Beam | Hypothesis, start: int, end: int) -> list[Event]:
    """What an item's best text has between two places, as events."""
    prompt = len(text.ids) - len(text.log_probs)
    return [Token(item, text.ids[at], text.log_probs[at - prompt]) for at in range(start, end)]


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


class JoinableSearch(Search, Protocol):
    """A search whose items may come at different times."""

    def join(self, other: Self) -> None:
        """Take over another search's items, behind one's own.

        Both have the same settings and have advanced at least once; the other is not to be used any more.
        """
        ...
