"""One thread that writes: what callers submit while it commits goes into its next transaction together.

A sync of the disk costs milliseconds, however much it syncs; so ten callers share one. Each operation runs
in a savepoint of its own, so that one that fails takes nothing of the others with it. A caller is answered
after COMMIT and after the in-memory indexes have the change.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from mplug_index.changes import Change, Written
from mplug_index.errors import StorageError
from mplug_index.live import LiveCollections

T = TypeVar("T")
Operation: TypeAlias = Callable[[sqlite3.Connection], Written[T]]

MAX_GROUP = 128
"""Operations of one transaction."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    # Any: each operation has its own type of result, and its future the same.
    operation: Operation[Any]
    future: Future[Any] = field(default_factory=Future)


class GroupCommitter:
    """Runs write operations, many to a transaction.

    Attributes:
        transaction_count: Transactions committed so far.
    """

    def __init__(self, connection: sqlite3.Connection, live: LiveCollections) -> None:
        """Takes the connection over; `close` closes it."""
        self.transaction_count = 0
        self._connection = connection
        self._live = live
        self._changed = threading.Condition()
        self._queue: deque[_Pending] = deque()
        self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="mplug-index-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> T:
        """Runs an operation and waits until its change is durable and searchable.

        Raises:
            StorageError: The database is closed, or the disk or database file failed.
            IndexStoreError: Whatever the operation raises.
        """
        pending = _Pending(operation)
        with self._changed:
            if self._refusal:
                raise StorageError(self._refusal)
            self._queue.append(pending)
            self._changed.notify()
        result: T = pending.future.result()
        return result

    def close(self) -> None:
        """Commits what was submitted, and ends."""
        with self._changed:
            self._refusal = self._refusal or "the database is closed"
            self._changed.notify()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while group := self._take():
            try:
                self._commit(group)
            except Exception as error:
                _log.exception("a group of writes failed")
                self._fail(group, error)

    def _take(self) -> list[_Pending]:
        """The next operations, once there are any; none where there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._refusal)
            return [self._queue.popleft() for _ in range(min(MAX_GROUP, len(self._queue)))]

    def _commit(self, group: Sequence[_Pending]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        done = [(pending, written) for pending in group if (written := self._attempt(pending)) is not None]
        with self._live.publishing:
            self._connection.execute("COMMIT")
            self.transaction_count += 1
            self._publish([change for _, written in done for change in written.changes])
        for pending, written in done:
            pending.future.set_result(written.result)

    def _attempt(self, pending: _Pending) -> Written[Any] | None:
        """Runs an operation within its savepoint; None where it failed by itself."""
        self._connection.execute("SAVEPOINT operation")
        try:
            written = pending.operation(self._connection)
        except Exception as error:
            # On a full disk SQLite itself rolls everything back; then the whole group fails.
            if not self._connection.in_transaction:
                raise
            self._connection.execute("ROLLBACK TO operation")
            self._connection.execute("RELEASE operation")
            pending.future.set_exception(_as_storage_error(error))
            return None
        self._connection.execute("RELEASE operation")
        return written

    def _publish(self, changes: Sequence[Change]) -> None:
        try:
            self._live.publish(changes)
        except Exception as error:
            # Memory no longer mirrors the file; a restart builds it anew. Until then nothing more is written.
            with self._changed:
                self._refusal = "the in-memory index failed after a commit; restart to rebuild it"
            raise StorageError("the write is durable, but not searchable until a restart") from error

    def _fail(self, group: Sequence[_Pending], error: Exception) -> None:
        try:
            self._connection.rollback()
        except sqlite3.Error:
            _log.exception("the rollback failed, too")
        for pending in group:
            if not pending.future.done():
                pending.future.set_exception(_as_storage_error(error))


def _as_storage_error(error: Exception) -> Exception:
    if isinstance(error, sqlite3.Error):
        return StorageError(f"the write failed and changed nothing: {error}")
    return error
