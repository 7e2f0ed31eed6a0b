"""Answers kept by request id, so that a repeated write changes nothing and is answered as before."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from mplug_index.errors import POINT_ERRORS, IndexStoreError
from mplug_index.types import UpsertOutcome

Json: TypeAlias = "int | str | list[Json] | None"

_FORGOTTEN_AT_ONCE = 100
"""Answers too old that one write deletes at most: more than it adds, so that they run out."""


@dataclass(frozen=True, slots=True)
class RequestWindow:
    """How long a request id is remembered: the latest `max_count`, and none older than `max_age`."""

    max_count: int = 10_000
    max_age: timedelta = timedelta(hours=24)

    def __post_init__(self) -> None:
        if self.max_count < 1 or self.max_age <= timedelta(0):
            raise ValueError(f"a request window needs max_count >= 1 and max_age > 0, not {self}")


def find(
    connection: sqlite3.Connection, window: RequestWindow, collection: int, operation: str, request_id: str
) -> Json:
    """The kept answer, or None."""
    sql = "SELECT answer FROM answers WHERE collection = ? AND operation = ? AND request_id = ? AND time >= ?"
    row = connection.execute(sql, (collection, operation, request_id, _oldest(window))).fetchone()
    if row is None:
        return None
    answer: Json = json.loads(zlib.decompress(row[0]))
    return answer


def keep(
    connection: sqlite3.Connection,
    window: RequestWindow,
    collection: int,
    operation: str,
    request_id: str,
    answer: Json,
) -> None:
    """Keeps an answer, and forgets those that fall out of the window."""
    # A batch's ids are most of an answer, and alike: zlib leaves a tenth of them. ASCII, because the id of a
    # refused point may be text that UTF-8 cannot hold.
    blob = zlib.compress(json.dumps(answer).encode("ascii"), level=1)
    columns = "collection, operation, request_id, time, answer"
    sql = f"INSERT OR REPLACE INTO answers ({columns}) VALUES (?, ?, ?, ?, ?)"
    values = (collection, operation, request_id, _now(), blob)
    number = connection.execute(sql, values).lastrowid
    assert number is not None, "an INSERT gives a row number"
    connection.execute("DELETE FROM answers WHERE number <= ?", (number - window.max_count,))
    first = "SELECT number FROM answers ORDER BY number LIMIT ?"
    sql = f"DELETE FROM answers WHERE number IN ({first}) AND time < ?"
    connection.execute(sql, (_FORGOTTEN_AT_ONCE, _oldest(window)))


def _now() -> int:
    return time.time_ns() // 1000


def _oldest(window: RequestWindow) -> int:
    return _now() - window.max_age // timedelta(microseconds=1)


def encode_outcomes(outcomes: Sequence[UpsertOutcome]) -> Json:
    """The outcomes of an upsert as JSON."""
    return [[o.id, o.sequence_number, _encode_error(o.error)] for o in outcomes]


def _encode_error(error: IndexStoreError | None) -> Json:
    return None if error is None else [type(error).__name__, str(error), error.field]


def decode_outcomes(answer: Json) -> list[UpsertOutcome]:
    """The outcomes of `encode_outcomes`."""
    assert isinstance(answer, list), "an upsert's answer is a list"
    return [_decode_outcome(each) for each in answer]


def _decode_outcome(answer: Json) -> UpsertOutcome:
    assert isinstance(answer, list), "an outcome is a list"
    id, sequence, error = answer
    assert isinstance(id, str), "an outcome begins with an id"
    assert isinstance(sequence, int), "its sequence number follows"
    if not isinstance(error, list):
        return UpsertOutcome(id, sequence)
    name, text, field = (str(part) for part in error)
    return UpsertOutcome(id, sequence, POINT_ERRORS[name](text, field=field))
