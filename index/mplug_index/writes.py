"""The write operations on points: what a caller's thread prepares, and what the writer's thread then does."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from mplug_index import answers, points
from mplug_index.answers import RequestWindow
from mplug_index.catalog import CollectionRow
from mplug_index.changes import Written
from mplug_index.errors import CollectionNotFoundError, DuplicateIdError, IndexStoreError, InvalidIdError
from mplug_index.filter_sql import compile_filter
from mplug_index.filters import Filter
from mplug_index.payload import canonical_payload, encode_payload, field_rows
from mplug_index.types import Point, UpsertOutcome
from mplug_index.vectors import prepare_vector

_MAX_REQUEST_ID_BYTES = 128


def check_request_id(request_id: str) -> None:
    """Refuses what is no request id; "" stands for none.

    Raises:
        InvalidIdError: It is not UTF-8, or longer than 128 bytes.
    """
    try:
        size = len(request_id.encode())
    except UnicodeEncodeError:
        raise InvalidIdError("a request_id must be UTF-8", field="request_id") from None
    if size > _MAX_REQUEST_ID_BYTES:
        text = f"a request_id has at most {_MAX_REQUEST_ID_BYTES} bytes, not {size}"
        raise InvalidIdError(text, field="request_id")


def check_duplicates(batch: Sequence[Point]) -> None:
    """Refuses a batch that holds an id twice.

    Raises:
        DuplicateIdError: It does.
    """
    counts = Counter(point.id for point in batch if isinstance(point.id, str))
    repeated = [id for id, count in counts.items() if count > 1]
    if repeated:
        raise DuplicateIdError(repeated)


def _check_still_there(connection: sqlite3.Connection, row: CollectionRow) -> None:
    """A write goes to the collection that its name meant when it began, even where the alias moved since."""
    if not connection.execute("SELECT 1 FROM collections WHERE number = ?", (row.number,)).fetchone():
        raise CollectionNotFoundError(
            f"the collection {row.name!r} was deleted meanwhile", field="collection"
        )


def prepare(point: Point, row: CollectionRow) -> points.NewPoint | IndexStoreError:
    """The point as it is written, or what is wrong with it."""
    try:
        points.check_id(point.id)
        vector = prepare_vector(point.vector, row.dimension, row.metric)
        payload = canonical_payload(point.payload)
    except IndexStoreError as error:
        return error
    return points.NewPoint(point.id, vector, encode_payload(payload), field_rows(payload))


def upsert(
    connection: sqlite3.Connection,
    *,
    window: RequestWindow,
    row: CollectionRow,
    ids: Sequence[str],
    prepared: Sequence[points.NewPoint | IndexStoreError],
    request_id: str,
) -> Written[list[UpsertOutcome]]:
    """Inserts what is good of a batch; with a request id known already, gives the first answer."""
    _check_still_there(connection, row)
    if request_id:
        known = answers.find(connection, window, row.number, "upsert", request_id)
        if known is not None:
            return Written(answers.decode_outcomes(known))
    good = [each for each in prepared if isinstance(each, points.NewPoint)]
    change = points.insert(connection, row.number, row.dimension, good) if good else None
    sequences = iter(change.added.tolist() if change else ())
    outcomes = [
        UpsertOutcome(id, error=each)
        if isinstance(each, IndexStoreError)
        else UpsertOutcome(id, next(sequences))
        for id, each in zip(ids, prepared, strict=True)
    ]
    if request_id:
        new = answers.encode_outcomes(outcomes)
        answers.keep(connection, window, row.number, "upsert", request_id, new)
    return Written(outcomes, (change,) if change else ())


def delete(
    connection: sqlite3.Connection,
    *,
    window: RequestWindow,
    row: CollectionRow,
    ids: Sequence[str] | None,
    filter: Filter | None,
    request_id: str,
) -> Written[int]:
    """Deletes points; with a request id known already, gives the first answer."""
    _check_still_there(connection, row)
    if request_id:
        answer = answers.find(connection, window, row.number, "delete", request_id)
        if isinstance(answer, int):
            return Written(answer)
    expression = None if filter is None else compile_filter(filter, row.number)
    change = points.delete(connection, row.number, row.dimension, ids, expression)
    count = len(change.removed) if change else 0
    if request_id:
        answers.keep(connection, window, row.number, "delete", request_id, count)
    return Written(count, (change,) if change else ())
