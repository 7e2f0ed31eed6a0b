from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from index.index_samples import random_vectors, sample_points, vector
from mplug_index import Database, Point, QueryPart
from mplug_index.errors import StorageError
from mplug_index.storage import SCHEMA_VERSION, ReaderPool, open_writer


def test_the_settings_are_the_durable_ones(tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "f")) as connection:
        values = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")
        ]
    assert values == ["wal", 2, 1, SCHEMA_VERSION]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"something else " * 100)
    with pytest.raises(StorageError, match="cannot be opened"):
        open_writer(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"something else " * 100


def test_someone_elses_database_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "f")) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StorageError, match="not one of mplug_index"):
        open_writer(tmp_path / "f")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "f")) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(
        StorageError, match=f"version {SCHEMA_VERSION + 1}; this release reads {SCHEMA_VERSION}"
    ):
        open_writer(tmp_path / "f")


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        Database(tmp_path / "f")


def test_a_snapshot_sees_one_state(tmp_path: Path) -> None:
    pool = ReaderPool(tmp_path / "f")
    count = "SELECT count(*) FROM aliases"
    with closing(open_writer(tmp_path / "f")) as writer:
        with pool.snapshot() as reader:
            before = reader.execute(count).fetchone()[0]
            writer.execute("INSERT INTO collections VALUES (1, 'c', 2, 'dot', '', 0, 0)")
            writer.execute("INSERT INTO aliases VALUES ('a', 1)")
            assert reader.execute(count).fetchone()[0] == before == 0
        with pool.snapshot() as reader:
            assert reader.execute(count).fetchone()[0] == 1
        pool.close()


def test_a_closed_pool_lends_nothing_and_takes_back(tmp_path: Path) -> None:
    open_writer(tmp_path / "f").close()
    pool = ReaderPool(tmp_path / "f")
    with pool.snapshot() as connection:
        pool.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    with pytest.raises(StorageError, match="closed"), pool.snapshot():
        pass


def test_an_error_of_sqlite_is_a_storage_error(tmp_path: Path) -> None:
    open_writer(tmp_path / "f").close()
    pool = ReaderPool(tmp_path / "f")
    with pytest.raises(StorageError, match="no such table"), pool.snapshot() as connection:
        connection.execute("SELECT * FROM missing_table")
    pool.close()


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\x37\x7f\x06\x82" + b"\xff" * 5000, bytes(40_000)])
def test_a_left_over_wal_of_garbage_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    with Database(tmp_path) as database:
        database.create_collection("c", 4)
        database.upsert("c", sample_points(random_vectors(20, 4)))
    (tmp_path / "index.sqlite-wal").write_bytes(garbage)
    (tmp_path / "index.sqlite-shm").write_bytes(garbage)
    with Database(tmp_path) as database:
        assert database.count("c") == 20
        database.upsert("c", [Point("new", vector(1, 2, 3, 4))])
        assert database.query("c", [QueryPart(vector(1, 2, 3, 4))], top_k=1)[0].point.id == "new"


def test_a_torn_wal_loses_whole_transactions_only(tmp_path: Path) -> None:
    """A copy of the files of a running database, its log cut anywhere: a prefix of the writes, each whole."""
    points = sample_points(random_vectors(30, 4))
    with Database(tmp_path / "db") as database:
        database.create_collection("c", 4)
        for first in range(0, 30, 3):
            database.upsert("c", points[first : first + 3])
        files = {name: (tmp_path / "db" / name).read_bytes() for name in ("index.sqlite", "index.sqlite-wal")}
    log = files["index.sqlite-wal"]
    assert len(log) > 100_000
    seen = set()
    for place, size in enumerate(range(len(log), len(log) // 3, -len(log) // 40)):
        copy = tmp_path / f"copy{place}"
        copy.mkdir()
        (copy / "index.sqlite").write_bytes(files["index.sqlite"])
        (copy / "index.sqlite-wal").write_bytes(log[:size])
        with Database(copy) as database:
            ids = [point.id for point in database.scroll("c")[0]]
        assert len(ids) % 3 == 0
        assert ids == [point.id for point in points[: len(ids)]]
        seen.add(len(ids))
    assert max(seen) == 30
    assert len(seen) > 3


def test_a_damaged_vector_is_found_at_opening(tmp_path: Path) -> None:
    with Database(tmp_path) as database:
        database.create_collection("c", 2)
        database.upsert("c", [Point("a", vector(1, 2))])
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection, connection:
        connection.execute("UPDATE points SET vector = x'00'")
    with pytest.raises(StorageError, match="wrong length"):
        Database(tmp_path)
