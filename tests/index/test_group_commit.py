from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from index.index_samples import random_vectors, sample_points, vector
from mplug_index import Database, Point, QueryPart
from mplug_index.changes import Written
from mplug_index.errors import CollectionExistsError, StorageError

GOOD = vector(1, 2)


class Gate:
    """Holds the writer's thread in an operation, so that what is submitted meanwhile is one group."""

    def __init__(self, database: Database) -> None:
        self._writer = database._writer
        self._entered = threading.Event()
        self._open = threading.Event()
        self._pool = ThreadPoolExecutor(32)

    def _wait(self, connection: sqlite3.Connection) -> Written[None]:
        self._entered.set()
        assert self._open.wait(30)
        return Written(None)

    def run_together(self, calls: Sequence[Callable[[], object]]) -> list[Future[object]]:
        """Runs calls so that their writes are in the queue together; they are done when this returns."""
        gate = self._pool.submit(self._writer.submit, self._wait)
        assert self._entered.wait(30)
        futures: list[Future[object]] = []
        for number, call in enumerate(calls, start=1):
            futures.append(self._pool.submit(call))
            # One after the other, so that their order is known.
            while len(self._writer._queue) < number:
                threading.Event().wait(0.001)
        self._open.set()
        gate.result(30)
        self._pool.shutdown()
        return futures


def test_writes_that_wait_together_are_one_transaction(database: Database) -> None:
    database.create_collection("c", 2)
    gate = Gate(database)
    before = database._writer.transaction_count
    calls = [partial(database.upsert, "c", [Point(f"p{number}", GOOD)]) for number in range(20)]
    futures = gate.run_together(calls)
    assert database._writer.transaction_count == before + 2  # the gate's, and theirs
    assert all(future.exception() is None for future in futures)
    assert database.count("c") == len(database.query("c", [QueryPart(GOOD)], top_k=99)) == 20


def test_one_callers_failure_harms_no_other(database: Database) -> None:
    database.create_collection("c", 2)

    def fail(connection: sqlite3.Connection) -> Written[None]:
        connection.execute("DELETE FROM points")
        raise RuntimeError("after doing harm")

    def bad_sql(connection: sqlite3.Connection) -> Written[None]:
        connection.execute("INSERT INTO points VALUES (1, 999, 'x', '', '')")
        return Written(None)

    gate = Gate(database)
    first, failed, clash, refused, last = gate.run_together(
        [
            lambda: database.upsert("c", [Point("a", GOOD)]),
            lambda: database._writer.submit(fail),
            lambda: database.create_collection("c", 3),
            lambda: database._writer.submit(bad_sql),
            lambda: database.upsert("c", [Point("b", GOOD)]),
        ]
    )
    assert first.exception() is None
    assert last.exception() is None
    assert isinstance(failed.exception(), RuntimeError)
    assert isinstance(clash.exception(), CollectionExistsError)
    assert isinstance(refused.exception(), StorageError)
    assert [point.id for point in database.scroll("c")[0]] == ["a", "b"]


def test_a_group_may_hold_a_collections_whole_life(database: Database) -> None:
    database.create_collection("old", 2)
    gate = Gate(database)
    futures = gate.run_together(
        [
            lambda: database.upsert("old", [Point("a", GOOD)]),
            lambda: database.upsert("old", [Point("a", vector(2, 1)), Point("b", GOOD)]),
            lambda: database.delete("old", ids=["b"]),
            lambda: database.create_collection("new", 2),
            lambda: database.delete_collection("new"),
            lambda: database.create_collection("new", 3),
        ]
    )
    assert [future.exception() for future in futures] == [None] * 6
    hits = database.query("old", [QueryPart(vector(2, 1))])
    assert [hit.point.id for hit in hits] == ["a"]
    assert hits[0].score == pytest.approx(1.0)
    assert database.get_collection("new").dimension == 3


def test_a_write_to_a_collection_that_goes_meanwhile_is_refused(database: Database) -> None:
    database.create_collection("c", 2)
    database.set_alias("a", "c")
    gate = Gate(database)
    _, upsert, delete = gate.run_together(
        [
            lambda: database.delete_collection("c"),
            lambda: database.upsert("a", [Point("p", GOOD)]),
            lambda: database.delete("a", ids=["p"]),
        ]
    )
    for future in (upsert, delete):
        assert "deleted meanwhile" in str(future.exception())


def test_a_full_disk_fails_the_write_and_nothing_else(database: Database, tmp_path: Path) -> None:
    database.create_collection("c", 64)
    database.upsert("c", sample_points(random_vectors(50, 64)))

    def limit_pages(pages: int) -> None:
        def operation(connection: sqlite3.Connection) -> Written[None]:
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return Written(None)

        database._writer.submit(operation)

    limit_pages(1)  # SQLite makes it as many as there are
    with pytest.raises(StorageError, match="full"):
        database.upsert("c", sample_points(random_vectors(2000, 64), "q"))
    assert database.count("c") == 50
    assert len(database.query("c", [QueryPart(random_vectors(1, 64)[0])], top_k=999)) == 50
    limit_pages(1_000_000)
    database.upsert("c", sample_points(random_vectors(2000, 64), "q"))
    assert database.count("c") == 2050


def test_an_index_that_fails_after_a_commit_stops_writes_until_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(tmp_path) as database:
        database.create_collection("c", 2)

        def fail(changes: object) -> None:
            raise MemoryError("no room for vectors")

        monkeypatch.setattr(database._live, "publish", fail)
        with pytest.raises(StorageError, match="durable, but not searchable"):
            database.upsert("c", [Point("a", GOOD)])
        with pytest.raises(StorageError, match="restart to rebuild"):
            database.upsert("c", [Point("b", GOOD)])
        with pytest.raises(StorageError, match="behind the database"):
            database.query("c", [QueryPart(GOOD)])
    with Database(tmp_path) as database:
        assert [hit.point.id for hit in database.query("c", [QueryPart(GOOD)])] == ["a"]


def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.create_collection("c", 2)
    gate = Gate(database)
    futures = gate.run_together(
        [partial(database.upsert, "c", [Point(f"p{number}", GOOD)]) for number in range(5)]
    )
    database.close()
    assert all(future.exception() is None for future in futures)
    with Database(tmp_path) as database:
        assert database.count("c") == 5
