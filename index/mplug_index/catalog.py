"""Collections and aliases in SQLite: who is who, and the operations that change it."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

from mplug_index.changes import CollectionCreated, CollectionDropped, Written
from mplug_index.errors import (
    AliasNotFoundError,
    CollectionExistsError,
    CollectionNotFoundError,
    FingerprintMismatchError,
    InvalidNameError,
)
from mplug_index.payload import from_micros, to_micros
from mplug_index.types import CollectionInfo, Metric

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MAX_FINGERPRINT_BYTES = 256
_COLUMNS = "c.number, c.name, c.dimension, c.metric, c.fingerprint, c.create_time, c.last_sequence"


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A row of `collections`."""

    number: int
    name: str
    dimension: int
    metric: Metric
    fingerprint: str
    create_time: datetime
    last_sequence: int
    """Of its latest write; the vector index that has applied it stands at the same number."""

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuses vectors of another embedding space, where both sides say which.

        Raises:
            FingerprintMismatchError: The fingerprints differ.
        """
        if fingerprint and self.fingerprint and fingerprint != self.fingerprint:
            text = f"the vectors are of {fingerprint!r}, the collection {self.name!r} of {self.fingerprint!r}"
            raise FingerprintMismatchError(f"{text}; embed with its model", field="fingerprint")


def check_name(name: str, field: str) -> None:
    """Refuses what is not a name of a collection or alias.

    Raises:
        InvalidNameError: Other than 1 to 128 ASCII letters, digits, '_', '-' and '.'.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        text = f"a name is 1 to 128 letters, digits, '_', '-' and '.', not {name!r}"
        raise InvalidNameError(text[:300], field=field)


def check_fingerprint_text(fingerprint: str) -> None:
    """Refuses what is not a fingerprint.

    Raises:
        InvalidNameError: Not ASCII, or longer than 256 bytes.
    """
    if not fingerprint.isascii() or len(fingerprint) > _MAX_FINGERPRINT_BYTES:
        text = f"a fingerprint is at most {_MAX_FINGERPRINT_BYTES} ASCII characters, not {fingerprint[:80]!r}"
        raise InvalidNameError(text, field="fingerprint")


def resolve(connection: sqlite3.Connection, name: str) -> CollectionRow:
    """The collection of a name or alias.

    Raises:
        InvalidNameError: It is no name.
        CollectionNotFoundError: There is none.
    """
    check_name(name, "collection")
    by_alias = "SELECT collection FROM aliases WHERE alias = ?"
    sql = f"SELECT {_COLUMNS} FROM collections c WHERE c.name = ? OR c.number = ({by_alias})"
    row = connection.execute(sql, (name, name)).fetchone()
    if row is None:
        raise CollectionNotFoundError(f"there is no collection {name!r}; create it first", field="collection")
    return _to_row(row)


def list_rows(connection: sqlite3.Connection) -> list[CollectionRow]:
    """All collections, by name."""
    sql = f"SELECT {_COLUMNS} FROM collections c ORDER BY c.name"
    return [_to_row(row) for row in connection.execute(sql)]


def _to_row(row: tuple[int, str, int, str, str, int, int]) -> CollectionRow:
    number, name, dimension, metric, fingerprint, create_time, last_sequence = row
    time = from_micros(create_time)
    return CollectionRow(number, name, dimension, Metric(metric), fingerprint, time, last_sequence)


def describe(connection: sqlite3.Connection, row: CollectionRow) -> CollectionInfo:
    """A collection as callers see it."""
    count = connection.execute("SELECT count(*) FROM points WHERE collection = ?", (row.number,)).fetchone()[
        0
    ]
    sql = "SELECT alias FROM aliases WHERE collection = ? ORDER BY alias"
    aliases = tuple(alias for (alias,) in connection.execute(sql, (row.number,)))
    return CollectionInfo(
        name=row.name,
        dimension=row.dimension,
        metric=row.metric,
        fingerprint=row.fingerprint,
        point_count=count,
        create_time=row.create_time,
        aliases=aliases,
    )


def create_collection(
    connection: sqlite3.Connection, name: str, dimension: int, metric: Metric, fingerprint: str
) -> Written[CollectionInfo]:
    """Adds a collection.

    Raises:
        CollectionExistsError: The name is taken.
    """
    for table, column in (("collections", "name"), ("aliases", "alias")):
        if connection.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (name,)).fetchone():
            text = f"the name {name!r} is taken by {'a collection' if column == 'name' else 'an alias'}"
            raise CollectionExistsError(f"{text}; choose another or delete it", field="name")
    sql = "INSERT INTO collections (name, dimension, metric, fingerprint, create_time) VALUES (?, ?, ?, ?, ?)"
    values = (name, dimension, metric.value, fingerprint, to_micros(datetime.now(UTC)))
    number = connection.execute(sql, values).lastrowid
    assert number is not None, "an INSERT gives a row number"
    info = describe(connection, resolve(connection, name))
    return Written(info, (CollectionCreated(number, dimension),))


def delete_collection(connection: sqlite3.Connection, name: str) -> Written[None]:
    """Deletes a collection with everything in it; an alias does not do for a name here.

    Raises:
        CollectionNotFoundError: There is none of this name.
    """
    row = resolve(connection, name)
    if row.name != name:
        text = f"{name!r} is an alias of {row.name!r}; name the collection itself to delete it"
        raise CollectionNotFoundError(text, field="name")
    connection.execute("DELETE FROM fields WHERE collection = ?", (row.number,))
    connection.execute("DELETE FROM points WHERE collection = ?", (row.number,))
    connection.execute("DELETE FROM collections WHERE number = ?", (row.number,))
    return Written(None, (CollectionDropped(row.number),))


def set_alias(connection: sqlite3.Connection, alias: str, collection: str) -> Written[None]:
    """Points an alias at a collection; one that is there is moved.

    Raises:
        CollectionExistsError: A collection has this name.
    """
    if connection.execute("SELECT 1 FROM collections WHERE name = ?", (alias,)).fetchone():
        raise CollectionExistsError(f"{alias!r} is a collection; choose another alias", field="alias")
    number = resolve(connection, collection).number
    sql = (
        "INSERT INTO aliases VALUES (?, ?) ON CONFLICT (alias) DO UPDATE SET collection = excluded.collection"
    )
    connection.execute(sql, (alias, number))
    return Written(None)


def delete_alias(connection: sqlite3.Connection, alias: str) -> Written[None]:
    """Deletes an alias, not the collection.

    Raises:
        AliasNotFoundError: There is none.
    """
    if connection.execute("DELETE FROM aliases WHERE alias = ?", (alias,)).rowcount == 0:
        raise AliasNotFoundError(f"there is no alias {alias!r}", field="alias")
    return Written(None)
