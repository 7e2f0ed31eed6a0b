from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from index.index_samples import random_vectors, sample_points, vector
from mplug_index import Database, Filter, Match, NumberRange, Point, QueryPart
from mplug_index.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    IndexStoreError,
    InvalidFilterError,
    InvalidIdError,
    InvalidPayloadError,
    InvalidVectorError,
)

GOOD = vector(1, 2)
BAD_POINTS: dict[str, tuple[Point, type[IndexStoreError], str]] = {
    "too long a vector": (
        Point("p", vector(1, 2, 3)),
        DimensionMismatchError,
        "2 numbers was expected, not 3",
    ),
    "no vector": (Point("p"), InvalidVectorError, "needs a vector"),
    "NaN": (Point("p", vector(1, math.nan)), InvalidVectorError, "finite"),
    "infinity": (Point("p", vector(math.inf, 1)), InvalidVectorError, "finite"),
    "a zero vector": (Point("p", vector(0, 0)), InvalidVectorError, "zero vector"),
    "an empty id": (Point("", GOOD), InvalidIdError, "1 to 512 bytes, not 0"),
    "an id of 513 bytes": (Point("x" * 513, GOOD), InvalidIdError, "not 513"),
    "an id of 171 characters and 513 bytes": (Point("猫" * 171, GOOD), InvalidIdError, "not 513"),
    "an id that is not UTF-8": (Point("\ud800", GOOD), InvalidIdError, "UTF-8"),
    "an id that is no str": (Point(7, GOOD), InvalidIdError, "not int"),  # type: ignore[arg-type]  # refused
    "a payload value of no type": (Point("p", GOOD, {"a": None}), InvalidPayloadError, "NoneType"),  # type: ignore[dict-item]  # refused
}


@pytest.mark.parametrize("name", BAD_POINTS)
def test_a_bad_point_harms_no_neighbour(database: Database, name: str) -> None:
    bad, error, text = BAD_POINTS[name]
    database.create_collection("c", 2)
    outcomes = database.upsert("c", [Point("a", GOOD), bad, Point("b", GOOD)])
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1].error, error)
    assert text in str(outcomes[1].error)
    assert outcomes[1].sequence_number == 0
    assert 0 < outcomes[0].sequence_number < outcomes[2].sequence_number
    assert [point.id for point in database.scroll("c")[0]] == ["a", "b"]
    assert len(database.query("c", [QueryPart(GOOD)])) == 2


def test_ids_twice_in_a_batch_refuse_it_whole(database: Database) -> None:
    database.create_collection("c", 2)
    batch = [Point(id, GOOD) for id in ("a", "b", "a", "c", "b", "a")]
    with pytest.raises(DuplicateIdError, match="'a', 'b'") as raised:
        database.upsert("c", batch)
    assert raised.value.ids == ("a", "b")
    assert database.count("c") == 0
    many = [Point(f"p{number % 15}", GOOD) for number in range(30)]
    with pytest.raises(DuplicateIdError, match="and 5 more"):
        database.upsert("c", many)


def test_points_come_back_as_they_went(database: Database) -> None:
    database.create_collection("c", 4)
    points = sample_points(random_vectors(1200, 4))
    outcomes = database.upsert("c", points)
    assert [outcome.id for outcome in outcomes] == [point.id for point in points]
    found, missing = database.get("c", ["p0003", "none", "p0001", "p0003"], with_vector=True)
    assert [point.id for point in found] == ["p0003", "p0001"]
    assert missing == ["none"]
    for point in found:
        wanted = points[int(point.id[1:])]
        assert point.payload == wanted.payload
        assert point.vector is not None
        assert wanted.vector is not None
        assert point.vector.dtype == np.float32
        assert point.vector.tolist() == pytest.approx(
            (wanted.vector / np.linalg.norm(wanted.vector)).tolist()
        )
    assert database.get("c", ["p0001"])[0][0].vector is None
    everything, missing = database.get("c", [point.id for point in points])
    assert [point.id for point in everything] == [point.id for point in points]
    assert missing == []


def test_ids_may_be_any_text_of_512_bytes(database: Database) -> None:
    database.create_collection("c", 2)
    ids = ["x" * 512, "猫" * 170, "\x00", "a\x00b", " ", "%_'\"", "../../etc"]
    assert all(outcome.error is None for outcome in database.upsert("c", [Point(id, GOOD) for id in ids]))
    assert [point.id for point in database.get("c", ids)[0]] == ids
    assert [point.id for point in database.scroll("c")[0]] == sorted(ids)
    assert sorted(hit.point.id for hit in database.query("c", [QueryPart(GOOD)])) == sorted(ids)
    assert database.delete("c", ids=ids) == len(ids)


def test_a_replaced_point_is_wholly_replaced(database: Database) -> None:
    database.create_collection("c", 2)
    first = database.upsert(
        "c", [Point("a", vector(1, 0), {"old": "x", "both": 1.0}), Point("b", vector(0, 1))]
    )
    second = database.upsert("c", [Point("a", vector(0, 1), {"both": 2.0})])
    assert second[0].sequence_number > first[1].sequence_number
    assert database.count("c") == 2
    assert database.get("c", ["a"])[0][0].payload == {"both": 2.0}
    assert database.count("c", Filter(must=(Match("old", ("x",)),))) == 0
    assert database.count("c", Filter(must=(NumberRange("both", lte=1),))) == 0
    assert [hit.score for hit in database.query("c", [QueryPart(vector(1, 0))])] == [0.0, 0.0]


def test_points_are_deleted_by_ids_by_filter_and_by_both(database: Database) -> None:
    database.create_collection("c", 4)
    vectors = random_vectors(30, 4)
    database.upsert("c", sample_points(vectors))
    assert database.delete("c", ids=["p0000", "p0001", "none", "p0000"]) == 2
    red = Filter(must=(Match("colour", ("red",)),))
    assert database.delete("c", ids=["p0003", "p0004", "p0005"], filter=red) == 1
    assert database.get("c", ["p0003", "p0004"])[1] == ["p0003"]
    assert database.delete("c", filter=red) == 8
    assert database.count("c", red) == 0
    assert all(
        hit.point.payload["colour"] != "red" for hit in database.query("c", [QueryPart(vectors[0])], top_k=99)
    )
    assert database.count("c") == 19
    assert database.delete("c", ids=[]) == 0
    assert database.delete("c", ids=[], filter=Filter()) == 0
    assert database.delete("c", filter=Filter()) == 19
    assert database.query("c", [QueryPart(vectors[0])]) == []


def test_a_delete_of_nothing_in_particular_is_refused(database: Database) -> None:
    database.create_collection("c", 2)
    with pytest.raises(InvalidFilterError, match="give ids or a filter"):
        database.delete("c")
    for call in (lambda: database.delete("c", ids=[""]), lambda: database.get("c", ["x" * 513])):
        with pytest.raises(InvalidIdError):
            call()


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    vectors = random_vectors(50, 8)
    with Database(tmp_path) as database:
        database.create_collection("c", 8)
        database.upsert("c", sample_points(vectors))
        last = database.upsert("c", [Point("p0007", vectors[8], {"new": True})])[0].sequence_number
        database.delete("c", ids=["p0009"])
        before = database.query("c", [QueryPart(vectors[8])], top_k=50, with_vector=True)
        info = database.get_collection("c")
    with Database(tmp_path) as database:
        after = database.query("c", [QueryPart(vectors[8])], top_k=50, with_vector=True)
        assert [(hit.point.id, hit.score, hit.point.payload) for hit in after] == [
            (hit.point.id, hit.score, hit.point.payload) for hit in before
        ]
        assert len(after) == 49
        assert database.get_collection("c") == info
        assert database.upsert("c", [Point("x", vectors[0])])[0].sequence_number > last + 1


def test_nothing_upserted_is_nothing_changed(database: Database) -> None:
    database.create_collection("c", 2)
    assert database.upsert("c", []) == []
    assert database.count("c") == 0
