"""What goes into a database and what comes out. Needs numpy only.

Legend: D is the dimension of a collection's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mplug_index.errors import IndexStoreError

PayloadValue: TypeAlias = str | float | bool | datetime | tuple[str, ...]
"""A keyword, number (always a float once stored), bool, time (aware, UTC once stored) or keywords."""

Payload: TypeAlias = Mapping[str, PayloadValue]

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]


class Metric(StrEnum):
    """How near two vectors are; greater is nearer under both."""

    COSINE = "cosine"
    """Vectors are normalised when they are written and when they are queried."""
    DOT = "dot"


@dataclass(frozen=True, slots=True)
class Point:
    """A vector with an id and typed payload."""

    id: str
    """UTF-8, 1 to 512 bytes."""
    vector: FloatArray | None = None
    """float32 (D,). None where a reader did not ask for it. Under cosine it comes back normalised."""
    payload: Payload = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredPoint:
    """A query's result."""

    point: Point
    score: float
    """Cosine or dot product with the query vector; greater is nearer."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as it stands."""

    name: str
    dimension: int
    metric: Metric
    fingerprint: str
    """Which embedding space the vectors are of; "" where the collection does not say."""
    point_count: int
    create_time: datetime
    aliases: tuple[str, ...] = ()
    """Sorted."""


@dataclass(frozen=True, slots=True)
class QueryPart:
    """One part of a query vector: exactly one of `vector` and `stored_id`, times `weight`."""

    vector: FloatArray | None = None
    """float32 (D,)."""
    stored_id: str | None = None
    """The vector of a point that the collection holds; the point is left out of the results."""
    weight: float = 1.0
    """Negative: unlike this."""


@dataclass(frozen=True, slots=True)
class UpsertOutcome:
    """What became of one point: a sequence number above 0, or an error."""

    id: str
    sequence_number: int = 0
    """Grows with every write of the database."""
    error: IndexStoreError | None = None
