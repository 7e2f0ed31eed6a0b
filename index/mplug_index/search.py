"""A query from its parts to scored points: over one SQLite snapshot and the vector index in step with it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence

import numpy as np

from mplug_index import points
from mplug_index.catalog import CollectionRow
from mplug_index.errors import InvalidVectorError, PointNotFoundError
from mplug_index.filter_match import matches
from mplug_index.filter_sql import compile_filter
from mplug_index.filters import Filter
from mplug_index.live import LiveCollections
from mplug_index.types import FloatArray, IntArray, Point, QueryPart, ScoredPoint
from mplug_index.vector_index import Hits, VectorIndex
from mplug_index.vectors import combine, prepare_vector

_log = logging.getLogger(__name__)


def query(
    connection: sqlite3.Connection,
    live: LiveCollections,
    collection: str,
    parts: Sequence[QueryPart],
    *,
    top_k: int,
    filter: Filter | None,
    with_vector: bool,
    fingerprint: str,
) -> list[ScoredPoint]:
    """See `Database.query`.

    Args:
        connection: In a transaction that has read nothing yet.
        live: The indexes in memory.
        collection: A name or an alias.
        parts: The parts of the query vector.
        top_k: At least 1.
        filter: What results must satisfy.
        with_vector: Whether results bring their vectors.
        fingerprint: The embedding space of the parts' vectors.
    """
    with live.in_step(connection, collection) as (row, index):
        row.check_fingerprint(fingerprint)
        vector, excluded = _query_vector(connection, row, parts)
        allowed = None
        if filter is not None:
            allowed = points.matching(connection, row.number, compile_filter(filter, row.number))
        hits = _search_with_ties(index, vector, top_k, allowed, excluded)
    # The snapshot outlives the lock: what is read now is as it was when the index was searched.
    best = _order(connection, hits, top_k)
    found = points.read_by_sequences(connection, [sequence for sequence, _ in best], with_vector=with_vector)
    results = [ScoredPoint(found[sequence], score) for sequence, score in best]
    return results if filter is None else [result for result in results if _satisfies(filter, result)]


def _query_vector(
    connection: sqlite3.Connection, row: CollectionRow, parts: Sequence[QueryPart]
) -> tuple[FloatArray, list[int]]:
    """The query vector, float32 (D,), and the sequence numbers of the stored points in it."""
    if not parts:
        raise InvalidVectorError("a query needs one part or more", field="parts")
    for place, part in enumerate(parts):
        if (part.vector is None) == (part.stored_id is None):
            text = "a part of a query has either a vector or a stored_id"
            raise InvalidVectorError(text, field=f"parts[{place}]")
    stored_ids = [part.stored_id for part in parts if part.stored_id is not None]
    for id in stored_ids:
        points.check_id(id, field="parts.stored_id")
    stored = points.read_by_ids(connection, row.number, list(dict.fromkeys(stored_ids)), with_vector=True)
    vectors = [_part_vector(row, place, part, stored) for place, part in enumerate(parts)]
    excluded = [sequence for sequence, _ in stored.values()]
    return combine(vectors, [part.weight for part in parts], row.metric), excluded


def _part_vector(
    row: CollectionRow, place: int, part: QueryPart, stored: dict[str, tuple[int, Point]]
) -> FloatArray:
    if part.stored_id is None:
        return prepare_vector(part.vector, row.dimension, row.metric, field=f"parts[{place}].vector")
    if part.stored_id not in stored:
        text = f"the collection {row.name!r} holds no point {part.stored_id!r} to query with"
        raise PointNotFoundError(text, field=f"parts[{place}].stored_id")
    vector = stored[part.stored_id][1].vector
    assert vector is not None, "it was read with its vector"
    return vector


def _search_with_ties(
    index: VectorIndex, vector: FloatArray, top_k: int, allowed: IntArray | None, excluded: Sequence[int]
) -> Hits:
    """The top k, and whatever else has the score of the last of them: ids decide among equals, later."""
    wanted = top_k + 1
    while True:
        hits = index.search(vector, wanted, allowed=allowed, excluded=excluded)
        scores = hits.scores
        if len(scores) < wanted or scores[-1] < scores[top_k - 1]:
            ends = len(scores) if len(scores) <= top_k else int(np.sum(scores >= scores[top_k - 1]))
            return Hits(hits.sequences[:ends], scores[:ends])
        wanted *= 4


def _order(connection: sqlite3.Connection, hits: Hits, top_k: int) -> list[tuple[int, float]]:
    """Sequence numbers and scores, best first, equal scores by id."""
    sequences = [int(sequence) for sequence in hits.sequences]
    ids = points.ids_of_sequences(connection, sequences)
    scored = zip(sequences, (float(score) for score in hits.scores), strict=True)
    return sorted(scored, key=lambda each: (-each[1], ids[each[0]]))[:top_k]


def _satisfies(filter: Filter, result: ScoredPoint) -> bool:
    if matches(filter, result.point.id, result.point.payload):
        return True
    _log.error("a search result did not satisfy its filter and was dropped: SQL or FAISS is at fault")
    return False
