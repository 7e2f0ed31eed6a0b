"""Points in SQLite: writing, deleting and reading rows.

Every function works within the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mplug_index.changes import RowsChanged
from mplug_index.errors import InvalidIdError, StorageError
from mplug_index.filter_sql import Expression
from mplug_index.payload import FieldRow, decode_payload
from mplug_index.types import FloatArray, IntArray, Point

MAX_ID_BYTES = 512

_CHUNK = 500
"""Parameters of one statement; a handful of statement texts keep SQLite's cache of them warm."""


@dataclass(frozen=True, slots=True)
class NewPoint:
    """A checked point, ready to be written."""

    id: str
    vector: FloatArray
    """float32 (D,), normalised under cosine."""
    payload: str
    fields: list[FieldRow]


def check_id(id: object, *, field: str = "id") -> None:
    """Refuses what is not the id of a point.

    Raises:
        InvalidIdError: Other than 1 to 512 bytes of UTF-8.
    """
    if not isinstance(id, str):
        raise InvalidIdError(f"an id must be a str, not {type(id).__name__}", field=field)
    try:
        size = len(id.encode())
    except UnicodeEncodeError:
        raise InvalidIdError(f"an id must be UTF-8: {id[:80]!r} is not", field=field) from None
    if not 1 <= size <= MAX_ID_BYTES:
        text = f"an id has 1 to {MAX_ID_BYTES} bytes, not {size}" + (f": {id[:40]!r}..." if size else "")
        raise InvalidIdError(text, field=field)


def insert(
    connection: sqlite3.Connection, collection: int, dimension: int, points: Sequence[NewPoint]
) -> RowsChanged:
    """Inserts points; those of the same ids are replaced. Each takes the next sequence number, in order."""
    first = _next_sequences(connection, collection, len(points))
    removed = _sequences_of_ids(connection, collection, [point.id for point in points])
    _delete_rows(connection, removed)
    rows = list(enumerate(points, start=first))
    connection.executemany(
        "INSERT INTO points (sequence, collection, id, payload, vector) VALUES (?, ?, ?, ?, ?)",
        ((sequence, collection, p.id, p.payload, p.vector.astype("<f4").tobytes()) for sequence, p in rows),
    )
    connection.executemany(
        "INSERT INTO fields (collection, key, kind, value, sequence) VALUES (?, ?, ?, ?, ?)",
        ((collection, *field, sequence) for sequence, p in rows for field in p.fields),
    )
    vectors = np.stack([point.vector for point in points])
    added = np.arange(first, first + len(points), dtype=np.int64)
    return RowsChanged(collection, first + len(points) - 1, _int_array(removed), added, vectors)


def delete(
    connection: sqlite3.Connection,
    collection: int,
    dimension: int,
    ids: Sequence[str] | None,
    expression: Expression | None,
) -> RowsChanged | None:
    """Deletes the points that have one of the ids and satisfy the expression; None: each is no condition.

    Returns:
        What went, or None where nothing did.
    """
    if ids is None:
        assert expression is not None, "a delete names ids or a filter"
        removed = matching(connection, collection, expression).tolist()
    else:
        removed = _sequences_of_ids(connection, collection, ids)
        if expression is not None:
            satisfying = set(matching(connection, collection, expression).tolist())
            removed = [sequence for sequence in removed if sequence in satisfying]
    if not removed:
        return None
    sequence = _next_sequences(connection, collection, 1)
    _delete_rows(connection, removed)
    nothing = np.empty((0, dimension), dtype=np.float32)
    return RowsChanged(collection, sequence, _int_array(removed), _int_array([]), nothing)


def _next_sequences(connection: sqlite3.Connection, collection: int, count: int) -> int:
    """Takes `count` sequence numbers for a collection's write and gives the first."""
    connection.execute("UPDATE counter SET last_sequence = last_sequence + ?", (count,))
    last = int(connection.execute("SELECT last_sequence FROM counter").fetchone()[0])
    connection.execute("UPDATE collections SET last_sequence = ? WHERE number = ?", (last, collection))
    return last - count + 1


def _delete_rows(connection: sqlite3.Connection, sequences: Sequence[int]) -> None:
    # The rows of `fields` go with them (ON DELETE CASCADE).
    connection.executemany("DELETE FROM points WHERE sequence = ?", ((each,) for each in sequences))


def _int_array(values: Sequence[int]) -> IntArray:
    return np.array(values, dtype=np.int64)


def _chunks(values: Sequence[object]) -> Iterator[tuple[object, ...]]:
    rest = iter(values)
    while chunk := tuple(islice(rest, _CHUNK)):
        yield chunk


def _sequences_of_ids(connection: sqlite3.Connection, collection: int, ids: Sequence[str]) -> list[int]:
    found: list[int] = []
    for chunk in _chunks(list(dict.fromkeys(ids))):
        marks = ", ".join("?" * len(chunk))
        sql = f"SELECT sequence FROM points WHERE collection = ? AND id IN ({marks})"
        found += (sequence for (sequence,) in connection.execute(sql, (collection, *chunk)))
    return found


def matching(connection: sqlite3.Connection, collection: int, expression: Expression) -> IntArray:
    """Sequence numbers, int64, of the points that satisfy an expression."""
    sql = f"SELECT p.sequence FROM points p WHERE p.collection = ? AND ({expression.sql})"
    rows = connection.execute(sql, (collection, *expression.parameters))
    return np.fromiter((sequence for (sequence,) in rows), dtype=np.int64)


def count(connection: sqlite3.Connection, collection: int, expression: Expression) -> int:
    """How many points satisfy an expression."""
    sql = f"SELECT count(*) FROM points p WHERE p.collection = ? AND ({expression.sql})"
    return int(connection.execute(sql, (collection, *expression.parameters)).fetchone()[0])


def read_by_ids(
    connection: sqlite3.Connection, collection: int, ids: Sequence[str], *, with_vector: bool
) -> dict[str, tuple[int, Point]]:
    """Points by id, with their sequence numbers; what is not there is left out."""
    found: dict[str, tuple[int, Point]] = {}
    for chunk in _chunks(ids):
        where = f"p.collection = ? AND p.id IN ({', '.join('?' * len(chunk))})"
        for sequence, point in _read(connection, where, (collection, *chunk), with_vector):
            found[point.id] = sequence, point
    return found


def read_by_sequences(
    connection: sqlite3.Connection, sequences: Sequence[int], *, with_vector: bool
) -> dict[int, Point]:
    """Points by sequence number."""
    found: dict[int, Point] = {}
    for chunk in _chunks(sequences):
        found.update(_read(connection, f"p.sequence IN ({', '.join('?' * len(chunk))})", chunk, with_vector))
    return found


def ids_of_sequences(connection: sqlite3.Connection, sequences: Sequence[int]) -> dict[int, str]:
    """Ids by sequence number."""
    found: dict[int, str] = {}
    for chunk in _chunks(sequences):
        sql = f"SELECT sequence, id FROM points WHERE sequence IN ({', '.join('?' * len(chunk))})"
        found.update(connection.execute(sql, chunk))
    return found


def read_page(
    connection: sqlite3.Connection,
    collection: int,
    expression: Expression,
    *,
    after: str,
    limit: int,
    with_vector: bool,
) -> list[Point]:
    """Points that satisfy an expression, after an id ("": from the first), in the order of ids' UTF-8."""
    where = f"p.collection = ? AND p.id > ? AND ({expression.sql}) ORDER BY p.id LIMIT ?"
    parameters = (collection, after, *expression.parameters, limit)
    return [point for _, point in _read(connection, where, parameters, with_vector)]


def _read(
    connection: sqlite3.Connection, where: str, parameters: Sequence[object], with_vector: bool
) -> list[tuple[int, Point]]:
    vector = "p.vector" if with_vector else "NULL"
    rows = connection.execute(
        f"SELECT p.sequence, p.id, p.payload, {vector} FROM points p WHERE {where}", parameters
    )
    return [
        (sequence, Point(id, None if blob is None else decode_vector(blob), decode_payload(payload)))
        for sequence, id, payload, blob in rows
    ]


def decode_vector(blob: bytes) -> FloatArray:
    """The vector, float32 (D,), of a stored blob."""
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)


def read_vectors(
    connection: sqlite3.Connection, collection: int, dimension: int, batch: int = 4096
) -> Iterator[tuple[IntArray, FloatArray]]:
    """All vectors of a collection in the order of sequence numbers: int64 (M,) and float32 (M, D).

    Raises:
        StorageError: A stored vector has another length.
    """
    sql = "SELECT sequence, vector FROM points WHERE collection = ? ORDER BY sequence"
    rows = connection.execute(sql, (collection,))
    while chunk := rows.fetchmany(batch):
        if any(len(blob) != 4 * dimension for _, blob in chunk):
            raise StorageError("a stored vector has the wrong length; the database file is damaged")
        vectors = np.frombuffer(b"".join(blob for _, blob in chunk), dtype="<f4").astype(np.float32)
        yield _int_array([sequence for sequence, _ in chunk]), vectors.reshape(-1, dimension)
