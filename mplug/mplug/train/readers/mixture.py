"""Draws from several sources by weight: which one, and which row, depends on the seed and the draw's number."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mplug.errors import MplugError
from mplug.train.readers.example import Example
from mplug.train.readers.source import Source

_BLOCK = 4096
"""Draws whose sources come from one generator."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A row that is to be read."""

    position: int
    """Counted from 0 over the draws of this process."""
    number: int
    """Counted from 0 over the draws of all processes: what a row's own randomness is drawn from."""
    source: Source[Any]
    reference: Any
    place: int
    """Counted from 0 over the draws from this source, of all processes."""

    def read(self) -> Example:
        """Reads it, all but its picture.

        Raises:
            MplugError: the row is refused.
        """
        return self.source.read(self.reference)


class Mixture:
    """Sources with weights. Each is shuffled anew whenever it has been drawn through.

    Args:
        parts: sources, each with its share of the draws; shares need not add up to 1.

    Raises:
        MplugError: no source, or a weight that is not above 0.
    """

    def __init__(self, parts: Sequence[tuple[Source[Any], float]]) -> None:
        weights = [weight for _, weight in parts]
        if not parts or not all(0 < weight < math.inf for weight in weights):
            raise MplugError(f"The weights of a mixture are {weights}; give each source one above 0.")
        self._sources = [source for source, _ in parts]
        self._bounds = np.cumsum(weights) / math.fsum(weights)

    def draws(self, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Draw]:
        """Rows without end.

        Args:
            seed: which draws.
            start: how many draws of this process to leave out; the rest are the ones that would have come.
            rank: this process among those that train together: their draws together are those of one process.
            world: how many those are.
        """
        cursors = [source.cursor(f"{seed} {name}") for name, source in enumerate(self._sources)]
        number, taken = start * world, self._taken_before(seed, start * world)
        while True:
            picks = self._picks(seed, number // _BLOCK)
            for pick in picks[number % _BLOCK :].tolist():
                if number % world == rank:
                    reference = cursors[pick].at(taken[pick])
                    yield Draw(number // world, number, self._sources[pick], reference, taken[pick])
                taken[pick] += 1
                number += 1

    def stream(self, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Example]:
        """As `draws`, each row read.

        Raises:
            MplugError: a row is refused.
        """
        return (draw.read() for draw in self.draws(seed, start, rank, world))

    def _picks(self, seed: int, block: int) -> NDArray[np.int64]:
        # Raw bits: their stream is promised never to change between versions of numpy, that of choice() is not.
        key = np.array([seed % 2**64, block], np.uint64)
        bits = np.random.Philox(key=key).random_raw(_BLOCK)
        return np.searchsorted(self._bounds[:-1], bits / 2**64, "right")

    def _taken_before(self, seed: int, number: int) -> list[int]:
        taken = np.zeros(len(self._sources), np.int64)
        blocks, rest = divmod(number, _BLOCK)
        for block in range(blocks):
            taken += np.bincount(self._picks(seed, block), minlength=len(taken))
        if rest:
            taken += np.bincount(self._picks(seed, blocks)[:rest], minlength=len(taken))
        return [int(count) for count in taken]
