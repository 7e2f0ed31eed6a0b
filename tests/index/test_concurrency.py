"""Many threads on one database: what was answered holds, and no reader sees half of a write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from index.index_samples import random_vectors, vector
from mplug_index import Database, Filter, Match, Point, QueryPart
from mplug_index.live import LiveCollection


def run_until_done(workers: list[Callable[[], None]], watchers: list[Callable[[], None]]) -> None:
    """Runs workers to their end, and watchers again and again until then."""
    done = threading.Event()

    def watch(watcher: Callable[[], None]) -> None:
        watcher()
        while not done.is_set():
            watcher()

    with ThreadPoolExecutor(len(workers) + len(watchers)) as pool:
        watching = [pool.submit(watch, watcher) for watcher in watchers]
        working = [pool.submit(worker) for worker in workers]
        try:
            for future in working:
                future.result()
        finally:
            done.set()
        for future in watching:
            future.result()


def test_each_thread_finds_what_it_was_acknowledged(database: Database) -> None:
    dimension = 16
    database.create_collection("c", dimension)

    def work(number: int) -> None:
        vectors = random_vectors(40, dimension, seed=number)
        mine = Filter(must=(Match("owner", (str(number),)),))
        for place, each in enumerate(vectors):
            id = f"{number}-{place}"
            database.upsert("c", [Point(id, each, {"owner": str(number)})])
            assert database.query("c", [QueryPart(each)], top_k=1)[0].point.id == id
            if place % 4 == 3:
                assert database.delete("c", ids=[f"{number}-{place - 1}"]) == 1
                found = database.query("c", [QueryPart(vectors[place - 1])], top_k=5, filter=mine)
                assert f"{number}-{place - 1}" not in [hit.point.id for hit in found]
        assert database.count("c", mine) == 30

    run_until_done([partial(work, number) for number in range(6)], [])
    assert (
        database.count("c")
        == len(database.query("c", [QueryPart(np.ones(dimension, dtype=np.float32))], top_k=999))
        == 180
    )


def test_no_reader_sees_half_of_a_write(database: Database) -> None:
    """All points are replaced again and again, each time as one batch with one version."""
    database.create_collection("c", 2)

    def batch(version: int) -> list[Point]:
        return [
            Point(f"p{number}", vector(1, number + version % 3), {"v": float(version)})
            for number in range(20)
        ]

    database.upsert("c", batch(0))
    everything = Filter(must_not=(Match("v", (-1.0,)),))
    seen: set[float] = set()

    def check(points: list[Point]) -> None:
        versions = {point.payload["v"] for point in points}
        assert len(points) == 20
        assert len(versions) == 1
        seen.add(float(str(versions.pop())))

    def write() -> None:
        for version in range(1, 150):
            database.upsert("c", batch(version))

    run_until_done(
        [write],
        [
            lambda: check([hit.point for hit in database.query("c", [QueryPart(vector(1, 1))], top_k=30)]),
            lambda: check(
                [
                    hit.point
                    for hit in database.query("c", [QueryPart(vector(1, 1))], top_k=30, filter=everything)
                ]
            ),
            lambda: check(database.scroll("c")[0]),
        ],
    )
    assert len(seen) > 1


def test_collections_come_and_go_under_queries(database: Database) -> None:
    database.create_collection("blue", 2)
    database.upsert("blue", [Point("x", vector(1, 0), {"colour": "blue"})])
    database.set_alias("live", "blue")

    def swap() -> None:
        for colour, other in [("green", "blue"), ("blue", "green")] * 15:
            database.create_collection(colour, 2)
            database.upsert(colour, [Point("x", vector(1, 0), {"colour": colour})])
            database.set_alias("live", colour)
            database.delete_collection(other)

    def look() -> None:
        hits = database.query("live", [QueryPart(vector(1, 0))])
        assert [hit.point.id for hit in hits] == ["x"]

    run_until_done([swap], [look, look])
    assert database.get_collection("live").name == "blue"


def test_a_query_between_commit_and_index_waits_for_the_index(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.create_collection("c", 2)
    database.upsert("c", [Point("a", vector(1, 0))])
    committed, may_apply = threading.Event(), threading.Event()
    apply = LiveCollection.apply

    def slow_apply(self: LiveCollection, changes: object) -> None:
        committed.set()
        assert may_apply.wait(30)
        apply(self, changes)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(LiveCollection, "apply", slow_apply)
    with ThreadPoolExecutor(2) as pool:
        upsert = pool.submit(database.upsert, "c", [Point("b", vector(1, 0))])
        assert committed.wait(30)
        query = pool.submit(database.query, "c", [QueryPart(vector(1, 0))])
        # Committed, so that readers of SQLite see it; a query waits, for FAISS does not have it yet.
        assert database.count("c") == 2
        assert not upsert.done()
        assert not query.done()
        may_apply.set()
        assert [hit.point.id for hit in query.result(30)] == ["a", "b"]
        assert upsert.result(30)[0].error is None
