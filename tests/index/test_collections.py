from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from index.index_samples import random_vectors, sample_points, vector
from mplug_index import Database, Filter, Metric, Point, QueryPart
from mplug_index.errors import (
    AliasNotFoundError,
    CollectionExistsError,
    CollectionNotFoundError,
    DimensionMismatchError,
    FingerprintMismatchError,
    IndexStoreError,
    InvalidNameError,
    StorageError,
)

BAD_NAMES = ["", " ", "a b", "a/b", "é", "a\n", "x" * 129, "'; DROP TABLE points", "a\0"]

CALLS: dict[str, Callable[[Database], object]] = {
    "get_collection": lambda database: database.get_collection("none"),
    "delete_collection": lambda database: database.delete_collection("none"),
    "set_alias": lambda database: database.set_alias("a", "none"),
    "upsert": lambda database: database.upsert("none", []),
    "delete": lambda database: database.delete("none", filter=Filter()),
    "get": lambda database: database.get("none", []),
    "count": lambda database: database.count("none"),
    "scroll": lambda database: database.scroll("none"),
    "query": lambda database: database.query("none", [QueryPart(vector(1, 2))]),
}


def test_a_collection_is_described(database: Database) -> None:
    created = database.create_collection("pets", 3, Metric.DOT, "abc")
    assert abs(created.create_time - datetime.now(UTC)) < timedelta(minutes=1)
    assert (created.name, created.dimension, created.metric) == ("pets", 3, Metric.DOT)
    assert (created.fingerprint, created.point_count, created.aliases) == ("abc", 0, ())
    assert database.get_collection("pets") == created
    database.create_collection("a.b-c_D9", 2)
    assert [each.name for each in database.list_collections()] == ["a.b-c_D9", "pets"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_everywhere(database: Database, name: str) -> None:
    database.create_collection("c", 2)
    for call in (
        lambda: database.create_collection(name, 2),
        lambda: database.get_collection(name),
        lambda: database.set_alias(name, "c"),
        lambda: database.set_alias("a", name),
        lambda: database.delete_alias(name),
        lambda: database.upsert(name, []),
        lambda: database.delete_collection(name),
    ):
        with pytest.raises(InvalidNameError, match="1 to 128 letters"):
            call()


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_collection_is_said_so(database: Database, call: str) -> None:
    with pytest.raises(CollectionNotFoundError, match="no collection 'none'"):
        CALLS[call](database)


def test_bad_arguments_of_a_collection_are_refused(database: Database) -> None:
    with pytest.raises(DimensionMismatchError):
        database.create_collection("c", 0)
    with pytest.raises(InvalidNameError, match="fingerprint"):
        database.create_collection("c", 2, fingerprint="x" * 257)
    with pytest.raises(ValueError, match="euclid"):
        database.create_collection("c", 2, "euclid")  # type: ignore[arg-type]  # refused
    assert database.list_collections() == []


def test_names_are_taken_once(database: Database) -> None:
    database.create_collection("c", 2)
    database.set_alias("a", "c")
    for name, text in (("c", "taken by a collection"), ("a", "taken by an alias")):
        with pytest.raises(CollectionExistsError, match=text):
            database.create_collection(name, 2)
    with pytest.raises(CollectionExistsError, match="is a collection"):
        database.set_alias("c", "c")


def test_an_alias_stands_for_its_collection_and_moves(database: Database) -> None:
    for number, name in enumerate(("one", "two")):
        database.create_collection(name, 2)
        database.upsert(name, [Point(f"p{number}", vector(1, number))])
    database.set_alias("live", "one")
    assert database.get_collection("live").name == "one"
    assert database.query("live", [QueryPart(vector(1, 0))])[0].point.id == "p0"
    database.set_alias("live", "two")
    assert database.query("live", [QueryPart(vector(1, 0))])[0].point.id == "p1"
    assert [each.aliases for each in database.list_collections()] == [(), ("live",)]
    database.upsert("live", [Point("more", vector(0, 1))])
    assert database.count("two") == 2
    database.set_alias("again", "live")
    assert database.get_collection("two").aliases == ("again", "live")


def test_an_alias_is_deleted_without_its_collection(database: Database) -> None:
    database.create_collection("c", 2)
    database.set_alias("a", "c")
    database.delete_alias("a")
    assert database.get_collection("c").aliases == ()
    with pytest.raises(AliasNotFoundError):
        database.delete_alias("a")
    with pytest.raises(CollectionNotFoundError):
        database.count("a")


def test_a_collection_is_deleted_by_its_own_name_with_everything(tmp_path: Path) -> None:
    with Database(tmp_path) as database:
        for name in ("c", "other"):
            database.create_collection(name, 4)
            database.upsert(name, sample_points(random_vectors(20, 4)), request_id="r")
        database.set_alias("a", "c")
        with pytest.raises(CollectionNotFoundError, match="alias of 'c'"):
            database.delete_collection("a")
        database.delete_collection("c")
        for name in ("c", "a"):
            with pytest.raises(CollectionNotFoundError):
                database.count(name)
        database.create_collection("c", 2)
        assert database.count("c") == 0
        assert database.query("c", [QueryPart(vector(1, 1))]) == []
    with Database(tmp_path) as database:
        assert [(each.name, each.point_count) for each in database.list_collections()] == [
            ("c", 0),
            ("other", 20),
        ]
        assert database.upsert("c", [Point("x", vector(1, 1))], request_id="r")[0].id == "x"


def test_the_fingerprint_is_held_where_both_sides_say_it(database: Database) -> None:
    database.create_collection("c", 2, fingerprint="right")
    database.create_collection("any", 2)
    point = Point("a", vector(1, 2))
    for fingerprint in ("", "right"):
        database.upsert("c", [point], fingerprint=fingerprint)
        assert database.query("c", [QueryPart(vector(1, 2))], fingerprint=fingerprint)
    database.upsert("any", [point], fingerprint="whatever")
    with pytest.raises(FingerprintMismatchError, match="'wrong'"):
        database.upsert("c", [point], fingerprint="wrong")
    with pytest.raises(FingerprintMismatchError, match="'right'"):
        database.query("c", [QueryPart(vector(1, 2))], fingerprint="wrong")


def test_a_closed_database_refuses_and_closes_again(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.create_collection("c", 2)
    database.close()
    database.close()
    for call in (
        lambda: database.count("c"),
        lambda: database.create_collection("d", 2),
        database.list_collections,
    ):
        with pytest.raises(StorageError, match="closed"):
            call()


def test_every_error_is_of_one_family() -> None:
    assert issubclass(CollectionNotFoundError, IndexStoreError | LookupError)
    assert issubclass(InvalidNameError, ValueError)
    assert not issubclass(StorageError, ValueError)
