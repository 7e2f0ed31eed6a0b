"""The in-memory indexes of all collections, and how they keep step with SQLite.

An index stands at the sequence number of the last write it has applied; so does each collection in each
SQLite snapshot. A query may use an index and a snapshot together when both stand at the same number. They
nearly always do; between COMMIT and the index's change they do not, and `publishing` is held for just that
long.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

from mplug_index.catalog import CollectionRow, list_rows, resolve
from mplug_index.changes import Change, CollectionCreated, CollectionDropped, RowsChanged
from mplug_index.errors import StorageError
from mplug_index.locks import ReadWriteLock
from mplug_index.points import read_vectors
from mplug_index.vector_index import FlatIndex, VectorIndex


@dataclass(slots=True)
class LiveCollection:
    """A collection's index with its lock."""

    index: VectorIndex
    last_sequence: int = 0
    lock: ReadWriteLock = field(default_factory=ReadWriteLock)

    def apply(self, changes: Sequence[RowsChanged]) -> None:
        """Applies changes in their order; searches see all of them or none."""
        with self.lock.write():
            # Adding first is right: what a later change removes may be what an earlier one adds, never the
            # other way round, for no sequence number comes twice.
            added = np.concatenate([change.added for change in changes])
            self.index.add(added, np.concatenate([change.vectors for change in changes]))
            self.index.remove(np.concatenate([change.removed for change in changes]))
            self.last_sequence = changes[-1].last_sequence


class LiveCollections:
    """All collections' indexes, by number."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Builds them from SQLite."""
        self.publishing = threading.Lock()
        """Held from COMMIT until the indexes have the change."""
        self._live = {row.number: _load(connection, row) for row in list_rows(connection)}

    def publish(self, changes: Sequence[Change]) -> None:
        """Applies committed changes. `publishing` is held by the caller."""
        rows: defaultdict[int, list[RowsChanged]] = defaultdict(list)
        for change in changes:
            if isinstance(change, CollectionCreated):
                self._live[change.collection] = LiveCollection(FlatIndex(change.dimension))
            elif isinstance(change, CollectionDropped):
                # Queries under way keep theirs: it matches the snapshot that they hold.
                del self._live[change.collection]
                rows.pop(change.collection, None)
            else:
                rows[change.collection].append(change)
        for collection, its_changes in rows.items():
            self._live[collection].apply(its_changes)

    @contextmanager
    def in_step(
        self, connection: sqlite3.Connection, name: str
    ) -> Iterator[tuple[CollectionRow, VectorIndex]]:
        """A collection and its index, which stays in step with the connection's snapshot within the context.

        Args:
            connection: In a transaction that has read nothing yet.
            name: A collection or an alias.

        Raises:
            CollectionNotFoundError: There is none of this name.
            StorageError: The index could not take an earlier change (out of memory).
        """
        with ExitStack() as held:
            found = self._hold(connection, name, held)
            if found is None:
                connection.rollback()
                connection.execute("BEGIN")
                # Nothing can be committed between this snapshot and the lock.
                with self.publishing:
                    found = self._hold(connection, name, held)
            if found is None:  # in step while nothing is published, unless a change could not be applied
                raise StorageError("the index in memory is behind the database; restart to rebuild it")
            yield found

    def _hold(
        self, connection: sqlite3.Connection, name: str, held: ExitStack
    ) -> tuple[CollectionRow, VectorIndex] | None:
        """Locks the index against writes until `held` ends; None where it is out of step."""
        row = resolve(connection, name)
        live = self._live.get(row.number)
        if live is None:
            return None
        with ExitStack() as attempt:
            attempt.enter_context(live.lock.read())
            if live.last_sequence != row.last_sequence:
                return None
            held.enter_context(attempt.pop_all())
        return row, live.index


def _load(connection: sqlite3.Connection, row: CollectionRow) -> LiveCollection:
    live = LiveCollection(FlatIndex(row.dimension), row.last_sequence)
    for sequences, vectors in read_vectors(connection, row.number, row.dimension):
        live.index.add(sequences, vectors)
    return live
