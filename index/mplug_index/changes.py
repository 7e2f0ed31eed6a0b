"""What a committed write means for the in-memory indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from mplug_index.types import FloatArray, IntArray

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CollectionCreated:
    """A collection, empty as yet."""

    collection: int
    dimension: int


@dataclass(frozen=True, slots=True)
class CollectionDropped:
    """A collection that is no more."""

    collection: int


@dataclass(frozen=True, slots=True)
class RowsChanged:
    """Rows of a collection that came and went."""

    collection: int
    last_sequence: int
    """Where the collection stands after it."""
    removed: IntArray
    added: IntArray
    vectors: FloatArray
    """float32 (len(added), D)."""


Change: TypeAlias = CollectionCreated | CollectionDropped | RowsChanged


@dataclass(frozen=True, slots=True)
class Written(Generic[T]):
    """The result of a write, and what to do once it is committed."""

    result: T
    changes: tuple[Change, ...] = ()
