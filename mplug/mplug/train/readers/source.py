"""What every source of examples does, and the sources whose rows can be read in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mplug.errors import MplugError
from mplug.train.readers.example import Example
from mplug.train.readers.order import BlockOrder

R = TypeVar("R")
"""How a source refers to a row before it reads it."""
R_co = TypeVar("R_co", covariant=True)

Keep = Callable[[Example], bool]


class Cursor(Protocol[R_co]):
    """A walk along a source's shuffled epochs, one after another."""

    def at(self, position: int) -> R_co:
        """The row of a position, counted from 0 over all epochs; positions must ascend from call to call."""
        ...


class Source(ABC, Generic[R]):
    """Rows of one kind, from one file or many. Iterating reads them in the order of the files."""

    @abstractmethod
    def num_examples(self) -> int:
        """Rows in an epoch. The first call may have to read through archives."""

    @abstractmethod
    def references(self) -> Iterator[R]:
        """The rows in the order of the files, not yet read."""

    @abstractmethod
    def read(self, reference: R) -> Example:
        """Reads a row, all but its picture; from any thread.

        Raises:
            MplugError: the row is refused: file, line, field and remedy.
        """

    @abstractmethod
    def cursor(self, seed: str) -> Cursor[R]:
        """Shuffled epochs without end: a function of the seed alone."""

    @abstractmethod
    def where(self, keep: Keep) -> Source[R]:
        """The rows that a predicate keeps.

        Raises:
            MplugError: a row is refused, or none is kept.
        """

    def __iter__(self) -> Iterator[Example]:
        for reference in self.references():
            yield self.read(reference)


class IndexedSource(Source[int]):
    """Rows that can be read by number.

    Attributes:
        blocks: first row of each stretch that is cheap to read as a whole; one stretch where any row is.
        window: how many such stretches are mixed and may be held at once.
    """

    blocks: NDArray[np.int64] = np.zeros(1, np.int64)
    window: int = 1

    def references(self) -> Iterator[int]:
        """The rows' numbers."""
        return iter(range(self.num_examples()))

    def cursor(self, seed: str) -> Cursor[int]:
        """Permuted epochs; any position is found at once."""
        return _IndexedCursor(self, seed)

    def where(self, keep: Keep) -> IndexedSource:
        """The rows that a predicate keeps: 8 bytes are held for each."""
        rows = np.fromiter((row for row, example in enumerate(self) if keep(example)), np.int64)
        if not len(rows):
            raise MplugError(
                f"None of {self.num_examples()} examples is kept: check splits and the sets asked for."
            )
        return _Selected(self, rows)


class _IndexedCursor:
    def __init__(self, source: IndexedSource, seed: str) -> None:
        self._source = source
        self._seed = seed
        self._epoch = -1
        self._order: BlockOrder | None = None

    def at(self, position: int) -> int:
        size = self._source.num_examples()
        epoch, place = divmod(position, size)
        if self._order is None or epoch != self._epoch:
            self._epoch = epoch
            seed = f"{self._seed} epoch {epoch}"
            self._order = BlockOrder(self._source.blocks, size, self._source.window, seed)
        return self._order[place]


class _Selected(IndexedSource):
    """Some rows of another source."""

    def __init__(self, source: IndexedSource, rows: NDArray[np.int64]) -> None:
        self._source = source
        self._rows = rows
        self.blocks = np.unique(np.searchsorted(rows, source.blocks))
        self.window = source.window

    def num_examples(self) -> int:
        return len(self._rows)

    def read(self, reference: int) -> Example:
        return self._source.read(int(self._rows[reference]))


class Concatenated(IndexedSource):
    """Sources of the same kind one after another, as one whose every row is cheap to read."""

    def __init__(self, parts: Sequence[IndexedSource]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.num_examples() for part in parts])

    def __iter__(self) -> Iterator[Example]:
        return chain.from_iterable(self._parts)

    def num_examples(self) -> int:
        """Rows of all parts."""
        return int(self._ends[-1])

    def read(self, reference: int) -> Example:
        """Reads a row of the part it lies in."""
        part = int(np.searchsorted(self._ends, reference, "right"))
        begin = int(self._ends[part - 1]) if part else 0
        return self._parts[part].read(reference - begin)
