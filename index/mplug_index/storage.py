"""The SQLite file: its tables, its settings, and connections to it.

There is one file for all collections, not one each: a group commit over several collections is then one
transaction and one sync of the disk, an alias moves in the same transaction as what it names, and one
sequence number orders all writes. The price, that a deleted collection's pages are reused but not given
back to the file system, is paid by a copy (VACUUM INTO) when it ever matters.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mplug_index.errors import StorageError

SCHEMA_VERSION = 1

_APPLICATION_ID = 0x6D504C47  # "mPLG": tells `file` and us what the file is
_MAX_IDLE = 16

# points.sequence names a row everywhere, in FAISS too, and is never used twice. `vector` stands last, so that
# reading an id or payload touches none of its pages. `fields` repeats the payload in the form that filters
# look up: (key, kind, value) to rows; `value` has no declared type, so that each keeps its own.
_SCHEMA = """
CREATE TABLE counter (last_sequence INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
CREATE TABLE collections (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    dimension INTEGER NOT NULL,
    metric TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE aliases (
    alias TEXT PRIMARY KEY,
    collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX aliases_of_collection ON aliases (collection);
CREATE TABLE points (
    sequence INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL REFERENCES collections,
    id TEXT NOT NULL,
    payload TEXT NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (collection, id)
);
CREATE INDEX points_in_order ON points (collection, sequence);
CREATE TABLE fields (
    collection INTEGER NOT NULL,
    key TEXT NOT NULL,
    kind INTEGER NOT NULL,
    value NOT NULL,
    sequence INTEGER NOT NULL REFERENCES points ON DELETE CASCADE,
    PRIMARY KEY (collection, key, kind, value, sequence)
) WITHOUT ROWID;
CREATE INDEX fields_of_point ON fields (sequence);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    operation TEXT NOT NULL,
    request_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    answer BLOB NOT NULL,
    UNIQUE (collection, operation, request_id)
);
"""


def open_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes; makes the file and its tables where there are none.

    Raises:
        StorageError: The file is not a database of ours, is of a newer version, or cannot be read or written.
    """
    connection = None
    try:
        connection = _connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        _ensure_schema(connection)
    except (sqlite3.Error, StorageError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"the database file cannot be opened: {error}", field="path") from error
    sync_directory(path.parent)
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # A connection serves one thread at a time, though not always the same one. Transactions are ours to
    # begin.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _ensure_schema(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == 0 and version == 0 and tables == 0:
        stamp = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {stamp} COMMIT;")
        return
    if application != _APPLICATION_ID:
        raise StorageError("the file is an SQLite database, but not one of mplug_index", field="path")
    if version != SCHEMA_VERSION:
        text = f"the database has schema version {version}; this release reads {SCHEMA_VERSION}"
        raise StorageError(text, field="path")


def sync_directory(path: Path) -> None:
    """Makes the directory's entries durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class ReaderPool:
    """Connections that read. Each use is one transaction: it sees one state of the database throughout."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction, whose first SELECT fixes the state it sees.

        Raises:
            StorageError: The database is closed, or SQLite fails.
        """
        connection = self._take()
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.Error as error:
            raise StorageError(f"the database could not be read: {error}") from error
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Closes the idle connections; one in use is closed when its use ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise StorageError("the database is closed")
            if self._idle:
                return self._idle.pop()
        try:
            return _connect(self._path)
        except sqlite3.Error as error:
            raise StorageError(f"the database could not be read: {error}") from error

    def _give_back(self, connection: sqlite3.Connection) -> None:
        try:
            connection.rollback()
        except sqlite3.Error:
            connection.close()
            return
        with self._lock:
            if not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()
