"""A source among others: its pictures are named from a folder that holds those of the others too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from mplug.train.readers.example import Example
from mplug.train.readers.source import Cursor, Keep, Source

R = TypeVar("R")


class Placed(Source[R]):
    """Another source's rows, with the folder that they come from in front of the names of their pictures.

    Args:
        source: the rows.
        folder: relative, with ``/`` between its parts.
    """

    def __init__(self, source: Source[R], folder: str) -> None:
        self._source = source
        self._folder = folder

    def num_examples(self) -> int:
        """As many as the source has."""
        return self._source.num_examples()

    def references(self) -> Iterator[R]:
        """Those of the source."""
        return self._source.references()

    def read(self, reference: R) -> Example:
        """Reads a row."""
        return self._named(self._source.read(reference))

    def cursor(self, seed: str) -> Cursor[R]:
        """The order of the source."""
        return self._source.cursor(seed)

    def where(self, keep: Keep) -> Placed[R]:
        """The rows that a predicate keeps, which sees the new names."""
        return Placed(self._source.where(lambda example: keep(self._named(example))), self._folder)

    def __iter__(self) -> Iterator[Example]:
        return map(self._named, self._source)

    def _named(self, example: Example) -> Example:
        name = f"{self._folder}/{example.image_name}"
        # A row that names no identity is known by its picture (`rows.to_example`).
        identity = name if example.identity == example.image_name else example.identity
        return replace(example, image_name=name, identity=identity) if example.image_name else example
