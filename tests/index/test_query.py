from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from index.index_samples import random_vectors, sample_points, vector
from mplug_index import Database, Filter, HasId, Match, Metric, NumberRange, Point, QueryPart, search
from mplug_index.errors import (
    DimensionMismatchError,
    IndexStoreError,
    InvalidIdError,
    InvalidLimitError,
    InvalidVectorError,
    PointNotFoundError,
)
from mplug_index.filter_sql import EVERYTHING
from mplug_index.types import FloatArray, ScoredPoint


def ids(hits: list[ScoredPoint]) -> list[str]:
    return [hit.point.id for hit in hits]


def fill(database: Database, vectors: FloatArray, metric: Metric = Metric.COSINE) -> None:
    database.create_collection("c", vectors.shape[1], metric)
    database.upsert("c", sample_points(vectors))


@pytest.mark.parametrize("metric", list(Metric))
def test_results_are_the_nearest_best_first(database: Database, metric: Metric) -> None:
    vectors = random_vectors(300, 16)
    fill(database, vectors, metric)
    query = random_vectors(1, 16, seed=1)[0]
    scores = vectors.astype(np.float64) @ query
    if metric is Metric.COSINE:
        scores /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    best = np.argsort(-scores)[:10]
    hits = database.query("c", [QueryPart(query)])
    assert ids(hits) == [f"p{place:04}" for place in best]
    assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-5)
    assert hits[0].point.vector is None
    assert hits[0].point.payload["number"] == float(best[0])


def test_vectors_come_along_when_asked_for(database: Database) -> None:
    fill(database, random_vectors(5, 4), Metric.DOT)
    for hit in database.query("c", [QueryPart(vector(1, 2, 3, 4))], with_vector=True):
        assert hit.point.vector is not None
        assert float(hit.point.vector @ vector(1, 2, 3, 4)) == pytest.approx(hit.score, rel=1e-5)


@pytest.mark.parametrize("limit", [10, 950])
def test_filtered_results_are_the_nearest_that_satisfy(database: Database, limit: int) -> None:
    vectors = random_vectors(1000, 8)
    fill(database, vectors)
    filter = Filter(must=(NumberRange("number", lt=limit),), must_not=(Match("colour", ("green",)),))
    query = random_vectors(1, 8, seed=1)[0]
    everything = database.query("c", [QueryPart(query)], top_k=1000)
    satisfying = [
        (hit.point.id, hit.score)
        for hit in everything
        if int(hit.point.id[1:]) < limit and int(hit.point.id[1:]) % 3 != 1
    ]
    hits = database.query("c", [QueryPart(query)], filter=filter, top_k=20)
    assert [(hit.point.id, hit.score) for hit in hits] == satisfying[:20]


def test_parts_are_normalised_before_they_are_weighted(database: Database) -> None:
    database.create_collection("c", 2)
    database.upsert("c", [Point("x", vector(1, 0)), Point("xy", vector(1, 1)), Point("-y", vector(0, -1))])
    both = database.query("c", [QueryPart(vector(100, 0)), QueryPart(vector(0, 0.01))])
    assert ids(both)[0] == "xy"
    assert both[0].score == pytest.approx(1.0)
    unlike = database.query("c", [QueryPart(vector(1, 0)), QueryPart(vector(0, 1), weight=-1.0)])
    assert [(hit.point.id, round(hit.score, 4)) for hit in unlike] == [
        ("-y", 0.7071),
        ("x", 0.7071),
        ("xy", 0.0),
    ]


def test_dot_takes_parts_as_they_are(database: Database) -> None:
    database.create_collection("c", 2, Metric.DOT)
    database.upsert("c", [Point("a", vector(2, 0)), Point("b", vector(0, 1))])
    hits = database.query("c", [QueryPart(vector(1, 0), weight=0.5), QueryPart(vector(0, 3))])
    assert [(hit.point.id, hit.score) for hit in hits] == [("b", 3.0), ("a", 1.0)]


def test_stored_points_query_and_are_left_out(database: Database) -> None:
    vectors = random_vectors(40, 8)
    fill(database, vectors)
    by_vector = database.query("c", [QueryPart(vectors[3])], top_k=40)
    by_id = database.query("c", [QueryPart(stored_id="p0003")], top_k=40)
    assert by_vector[0].point.id == "p0003"
    assert ids(by_id) == ids(by_vector)[1:]
    two = [
        QueryPart(stored_id="p0001"),
        QueryPart(stored_id="p0002", weight=-0.5),
        QueryPart(stored_id="p0001"),
    ]
    found = ids(database.query("c", two, top_k=40))
    assert len(found) == 38
    assert not {"p0001", "p0002"} & set(found)
    only = Filter(must=(HasId(("p0001", "p0005")),))
    assert ids(database.query("c", two, filter=only)) == ["p0005"]


def test_equal_scores_come_by_id_also_where_the_list_ends(database: Database) -> None:
    database.create_collection("c", 2)
    names = [f"n{number:03}" for number in range(100)]
    shuffled = list(np.random.default_rng(0).permutation(names))
    database.upsert("c", [Point("best", vector(1, 0.1))])
    database.upsert("c", [Point(str(name), vector(1, 1)) for name in shuffled])
    for top_k in (1, 2, 7, 99, 100, 101, 500):
        assert ids(database.query("c", [QueryPart(vector(1, 0))], top_k=top_k)) == ["best", *names][:top_k]
    some = Filter(must=(HasId(tuple(names[40:])),))
    assert ids(database.query("c", [QueryPart(vector(1, 0))], top_k=5, filter=some)) == names[40:45]


def test_more_than_there_are_is_all_there_is(database: Database) -> None:
    fill(database, random_vectors(3, 4))
    assert len(database.query("c", [QueryPart(vector(1, 0, 0, 0))], top_k=10**9)) == 3
    nothing = Filter(must=(HasId(("none",)),))
    assert database.query("c", [QueryPart(vector(1, 0, 0, 0))], filter=nothing) == []


BAD_QUERIES: dict[str, tuple[list[QueryPart], type[IndexStoreError], str]] = {
    "no part": ([], InvalidVectorError, "one part or more"),
    "an empty part": ([QueryPart()], InvalidVectorError, "either a vector or a stored_id"),
    "a part that is both": (
        [QueryPart(vector(1, 2), "a")],
        InvalidVectorError,
        "either a vector or a stored_id",
    ),
    "the wrong length": ([QueryPart(vector(1, 2, 3))], DimensionMismatchError, "not 3"),
    "NaN": ([QueryPart(vector(math.nan, 1))], InvalidVectorError, "finite"),
    "zero": ([QueryPart(vector(0, 0))], InvalidVectorError, "zero vector"),
    "an unknown id": ([QueryPart(stored_id="none")], PointNotFoundError, "no point 'none'"),
    "an empty id": ([QueryPart(stored_id="")], InvalidIdError, "1 to 512"),
    "a weight of NaN": ([QueryPart(vector(1, 2), weight=math.nan)], InvalidVectorError, "weight"),
    "a point minus itself": (
        [QueryPart(stored_id="a"), QueryPart(vector(2, 4), weight=-1)],
        InvalidVectorError,
        "cancel",
    ),
}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_a_bad_query_is_refused(database: Database, name: str) -> None:
    parts, error, text = BAD_QUERIES[name]
    database.create_collection("c", 2)
    database.upsert("c", [Point("a", vector(1, 2))])
    with pytest.raises(error, match=text):
        database.query("c", parts)


@pytest.mark.parametrize("top_k", [0, -1, 2.0])
def test_top_k_begins_at_one(database: Database, top_k: int) -> None:
    database.create_collection("c", 2)
    with pytest.raises(InvalidLimitError, match="top_k must be 1 or more"):
        database.query("c", [QueryPart(vector(1, 2))], top_k=top_k)


def test_a_result_that_fails_its_filter_is_dropped_and_logged(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, random_vectors(9, 4))
    monkeypatch.setattr(search, "compile_filter", lambda filter, collection: EVERYTHING)
    filter = Filter(must=(Match("colour", ("red",)),))
    with caplog.at_level(logging.ERROR, logger="mplug_index"):
        hits = database.query("c", [QueryPart(vector(1, 2, 3, 4))], filter=filter)
    assert sorted(ids(hits)) == ["p0000", "p0003", "p0006"]
    assert len(caplog.records) == 6
