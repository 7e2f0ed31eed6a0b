"""Collections of vectors with typed payload: SQLite is the truth, FAISS the index in memory.

An acknowledged write is durable and searchable. Importing this package imports numpy; FAISS and SQLite come
in with the first use of `Database`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mplug_index.errors import IndexStoreError
from mplug_index.filters import Condition, Exists, Filter, HasId, Match, NumberRange, TimeRange
from mplug_index.types import (
    CollectionInfo,
    Metric,
    Payload,
    PayloadValue,
    Point,
    QueryPart,
    ScoredPoint,
    UpsertOutcome,
)

if TYPE_CHECKING:
    from mplug_index.answers import RequestWindow
    from mplug_index.database import Database
    from mplug_index.pictures import PictureRoot, PictureStore

__all__ = [
    "CollectionInfo",
    "Condition",
    "Database",
    "Exists",
    "Filter",
    "HasId",
    "IndexStoreError",
    "Match",
    "Metric",
    "NumberRange",
    "Payload",
    "PayloadValue",
    "PictureRoot",
    "PictureStore",
    "Point",
    "QueryPart",
    "RequestWindow",
    "ScoredPoint",
    "TimeRange",
    "UpsertOutcome",
]

_LAZY = {
    "Database": "mplug_index.database",
    "PictureRoot": "mplug_index.pictures",
    "PictureStore": "mplug_index.pictures",
    "RequestWindow": "mplug_index.answers",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
