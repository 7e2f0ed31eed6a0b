"""Filters through SQLite, held against their meaning in plain Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.index_samples import IDS, filters, payloads, satisfies, vector
from mplug_index import Database, Exists, Filter, HasId, Match, PayloadValue, Point, QueryPart


@pytest.mark.long
def test_filters_find_what_they_mean(tmp_path: Path) -> None:
    with Database(tmp_path) as database:
        database.create_collection("c", 2)

        @settings(max_examples=150, deadline=None)
        @given(
            stored=st.dictionaries(st.sampled_from(IDS), payloads, min_size=1, max_size=8),
            several=st.lists(filters, min_size=1, max_size=6),
        )
        def check(stored: dict[str, dict[str, PayloadValue]], several: list[Filter]) -> None:
            database.delete("c", filter=Filter())
            database.upsert("c", [Point(id, vector(1, 1), payload) for id, payload in stored.items()])
            for filter in several:
                _check_filter(database, stored, filter)

        check()


def _check_filter(database: Database, stored: dict[str, dict[str, PayloadValue]], filter: Filter) -> None:
    expected = sorted(id for id, payload in stored.items() if satisfies(filter, id, payload))
    assert database.count("c", filter) == len(expected)
    assert [point.id for point in database.scroll("c", filter=filter)[0]] == expected
    found = database.query("c", [QueryPart(vector(1, 1))], filter=filter, top_k=20)
    assert [hit.point.id for hit in found] == expected
    assert all(hit.point.payload == stored[hit.point.id] for hit in found)


def test_a_filter_at_its_limits_runs(database: Database) -> None:
    database.create_collection("c", 2)
    database.upsert("c", [Point("x", vector(1, 0), {"a": "1"})])
    deep: Filter = Filter(must=(Exists("a"),))
    for _ in range(14):
        deep = Filter(must=(deep,), must_not=(Exists("b"),))
    assert database.count("c", deep) == 1
    wide = Filter(should=(*(Match("b", (str(number),)) for number in range(250)), Exists("a")))
    assert database.count("c", wide) == 1
    values = tuple(str(number) for number in range(14_000))
    long = Filter(must=(Match("a", values), HasId((*values, "x"))))
    assert database.count("c", long) == 1


def test_filters_of_one_collection_find_nothing_of_another(database: Database) -> None:
    for name in ("one", "two"):
        database.create_collection(name, 2)
        database.upsert(name, [Point(f"{name}-point", vector(1, 0), {"a": "x"})])
    filter = Filter(must=(Match("a", ("x",)),))
    assert [point.id for point in database.scroll("one", filter=filter)[0]] == ["one-point"]
    assert database.count("two", Filter(must_not=(Exists("a"),))) == 0
