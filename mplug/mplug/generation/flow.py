"""A batch on its way through a decoder: what its sequences have read is in a state, what they read next is here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from mplug.generation.decoder import StateT, StepDecoder
from mplug.generation.search import Move


class Flow(Generic[StateT]):
    """Items with equally many sequences, which some search moves.

    Args:
        decoder: what reads tokens.
        state: one sequence for each item, no token read yet.
        sequences: of each item, from its first move on.
    """

    def __init__(self, decoder: StepDecoder[StateT], state: StateT, sequences: int) -> None:
        self._decoder = decoder
        self._state = state
        self._sequences = sequences
        self._width = 1
        self._num_items = 0
        self._device = torch.device("cpu")
        """Where the logits are."""
        self._ids: list[int] = []
        """By sequence, the token that it reads next; empty before the first move."""

    def begin(self, ids_SL: Tensor, lengths_S: Tensor | None) -> Tensor:
        """Read every item's prompt: logits (S, V); arguments as of `StepDecoder.step`."""
        self._num_items = len(ids_SL)
        return self._read(ids_SL, lengths_S)

    def step(self) -> Tensor:
        """Read every sequence's next token: logits (S, V)."""
        return self._read(torch.tensor(self._ids)[:, None], None)

    def follow(self, move: Move) -> None:
        """Let the items that a search keeps go on from where it says."""
        self._keep_images(move.kept)
        if self._width < self._sequences:
            self._state.repeat(
                self._sequences
            )  # copies of the prompt: whichever a beam goes on from, it is the same
            self._width = self._sequences
        elif (rows_S := _reordered(move, self._width)) is not None:
            self._state.select(rows_S.to(self._device))
        self._ids = move.ids

    def keep(self, places: Sequence[int]) -> None:
        """Between two moves: go on with the items at these places alone, ascending."""
        self._keep_images(places)
        self._ids = [self._ids[place * self._width + row] for place in places for row in range(self._width)]

    def join(self, other: Flow[StateT]) -> None:
        """Between two moves: take over another flow's items, behind one's own; it is not to be used any more."""
        self._state.join(other._state)
        self._ids = self._ids + other._ids
        self._num_items += other._num_items

    def _read(self, ids_SL: Tensor, lengths_S: Tensor | None) -> Tensor:
        logits_SV = self._decoder.step(ids_SL, self._state, lengths_S=lengths_S)
        self._device = logits_SV.device
        return logits_SV

    def _keep_images(self, places: Sequence[int]) -> None:
        if len(places) < self._num_items:
            self._state.keep_images(torch.tensor(places, device=self._device))
            self._num_items = len(places)


def _reordered(move: Move, width: int) -> Tensor | None:
    # Late in a search most beams stay where they are.
    rows = [place // width * width + row for place, row in enumerate(move.rows)]
    return None if rows == list(range(len(rows))) else torch.tensor(rows)
