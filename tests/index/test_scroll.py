from __future__ import annotations

import base64

import pytest

from index.index_samples import random_vectors, sample_points, vector
from mplug_index import Database, Exists, Filter, Match, Point
from mplug_index.errors import InvalidLimitError, InvalidPageTokenError
from mplug_index.page_token import make_token, read_token


def walk(database: Database, page_size: int, filter: Filter | None = None) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        page, token = database.scroll("c", filter=filter, page_size=page_size, page_token=token)
        assert len(page) == page_size or not token
        found += [point.id for point in page]
        if not token:
            return found


@pytest.mark.parametrize("page_size", [1, 7, 20, 21, 1000])
def test_a_walk_meets_every_point_once_by_id(database: Database, page_size: int) -> None:
    database.create_collection("c", 4)
    points = sample_points(random_vectors(20, 4))
    database.upsert("c", points[::-1])
    assert walk(database, page_size) == [point.id for point in points]
    red = Filter(must=(Match("colour", ("red",)),))
    assert walk(database, page_size, red) == [point.id for point in points[::3]]


def test_an_empty_collection_is_one_empty_page(database: Database) -> None:
    database.create_collection("c", 4)
    assert database.scroll("c") == ([], "")


def test_vectors_come_along_when_asked_for(database: Database) -> None:
    database.create_collection("c", 2)
    database.upsert("c", [Point("a", vector(0, 2))])
    with_vector, without = database.scroll("c", with_vector=True)[0][0], database.scroll("c")[0][0]
    assert with_vector.vector is not None
    assert with_vector.vector.tolist() == [0.0, 1.0]
    assert without.vector is None


def test_a_walk_is_stable_under_writes(database: Database) -> None:
    """Every page is followed by inserts on both sides, replacements, and deletes of others."""
    database.create_collection("c", 2)
    steady = [f"s{number:03}" for number in range(60)]
    database.upsert("c", [Point(id, vector(1, 1)) for id in steady])
    database.upsert("c", [Point(f"t{number:03}", vector(1, 1)) for number in range(30)])
    found: list[str] = []
    token, step = "", 0
    while True:
        page, token = database.scroll("c", page_size=7, page_token=token)
        found += [point.id for point in page]
        if not token:
            break
        step += 1
        database.upsert("c", [Point(f"a{step}", vector(1, 1)), Point(f"s{step:03}5", vector(1, 1))])
        database.upsert("c", [Point(id, vector(0, step)) for id in steady[::2]])
        database.delete("c", ids=[f"t{step:03}"])
        database.delete("c", ids=[found[-1]] if found[-1] not in steady else [])
    assert len(found) == len(set(found))
    assert [id for id in found if id in set(steady)] == steady


@pytest.mark.parametrize("page_size", [0, -5])
def test_page_size_begins_at_one(database: Database, page_size: int) -> None:
    database.create_collection("c", 2)
    with pytest.raises(InvalidLimitError, match="page_size"):
        database.scroll("c", page_size=page_size)


def test_a_token_is_bound_to_its_filter_and_collection(database: Database) -> None:
    for name in ("c", "d"):
        database.create_collection(name, 4)
        database.upsert(name, sample_points(random_vectors(20, 4)))
    filter = Filter(must=(Exists("colour"),))
    token = database.scroll("c", filter=filter, page_size=5)[1]
    assert database.scroll("c", filter=filter, page_size=9, page_token=token)[0][0].id == "p0005"
    for collection, other in (("c", None), ("c", Filter(must=(Exists("even"),))), ("d", filter)):
        with pytest.raises(InvalidPageTokenError, match="another collection or filter"):
            database.scroll(collection, filter=other, page_token=token)
    database.delete_collection("c")
    database.create_collection("c", 4)
    with pytest.raises(InvalidPageTokenError):
        database.scroll("c", filter=filter, page_token=token)


def test_a_damaged_token_is_refused(database: Database) -> None:
    database.create_collection("c", 4)
    database.upsert("c", sample_points(random_vectors(20, 4)))
    token = database.scroll("c", page_size=5)[1]
    flipped = [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        for place in range(len(token))
    ]
    unsigned = base64.urlsafe_b64encode(b'[1,"x","y"]').decode()
    for bad in ("x", "!", "é", "\ud800", "AAAA", "A" * 5000, token[:-4], token + "AAAA", unsigned, *flipped):
        with pytest.raises(InvalidPageTokenError):
            database.scroll("c", page_token=bad)


@pytest.mark.parametrize("id", ["a", "猫", "\x00", "x" * 512, '"]'])
def test_a_token_holds_any_id(id: str) -> None:
    assert read_token(make_token(3, "f", id), 3, "f") == id
    assert make_token(3, "f", id).isascii()
