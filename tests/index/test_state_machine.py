"""Random operations on a Database, held against a plain model in memory after every step."""

from __future__ import annotations

import tempfile
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from index.index_samples import IDS, filters, payloads, satisfies
from mplug_index import Database, Filter, Metric, PayloadValue, Point, QueryPart
from mplug_index.types import FloatArray

DIMENSION = 3
Wide: TypeAlias = NDArray[np.float64]
Array: TypeAlias = FloatArray | Wide

# Few values, so that vectors are often equal and ties are common.
vectors = st.lists(st.sampled_from([-2.0, 0.0, 1.0]), min_size=DIMENSION, max_size=DIMENSION).filter(any)
ids = st.sampled_from(IDS)
points = st.tuples(ids, vectors, payloads)
batches = st.lists(points, max_size=6, unique_by=lambda point: point[0])
request_ids = st.sampled_from(["", "", "r1", "r2", "r3"])


class Model:
    """The oracle: a dictionary of what a collection holds."""

    def __init__(self) -> None:
        self.points: dict[str, tuple[FloatArray, dict[str, PayloadValue]]] = {}

    def satisfying(self, filter: Filter | None) -> list[str]:
        return sorted(
            id for id, (_, payload) in self.points.items() if filter is None or satisfies(filter, id, payload)
        )

    def scores(self, query: Wide, metric: Metric) -> dict[str, float]:
        return {id: float(normalised(vector, metric) @ query) for id, (vector, _) in self.points.items()}


def normalised(vector: Array, metric: Metric) -> Wide:
    wide = vector.astype(np.float64)
    return wide / np.linalg.norm(wide) if metric is Metric.COSINE else wide


class DatabaseMachine(RuleBasedStateMachine):
    metric = Metric.COSINE

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.database = Database(self.directory.name)
        self.database.create_collection("c", DIMENSION, self.metric)
        self.model = Model()
        self.answers: dict[tuple[str, str], object] = {}
        self.last_sequence = 0

    def teardown(self) -> None:
        self.database.close()
        self.directory.cleanup()

    @rule(batch=batches, request_id=request_ids)
    def upsert(self, batch: list[tuple[str, list[float], dict[str, PayloadValue]]], request_id: str) -> None:
        given = [(id, np.array(numbers, dtype=np.float32), payload) for id, numbers, payload in batch]
        outcomes = self.database.upsert("c", [Point(*each) for each in given], request_id=request_id)
        answer = [(outcome.id, outcome.sequence_number) for outcome in outcomes]
        if request_id and ("upsert", request_id) in self.answers:
            assert answer == self.answers["upsert", request_id]
            return
        assert [id for id, _ in answer] == [id for id, _, _ in given]
        sequences = [sequence for _, sequence in answer]
        assert sequences == sorted(sequences)
        assert all(sequence > self.last_sequence for sequence in sequences)
        self.last_sequence = max([self.last_sequence, *sequences])
        self.answers["upsert", request_id] = answer
        self.model.points.update({id: (vector, payload) for id, vector, payload in given})

    @rule(chosen=st.lists(ids, max_size=3), filter=st.none() | filters, request_id=request_ids)
    def delete_ids(self, chosen: list[str], filter: Filter | None, request_id: str) -> None:
        gone = set(chosen) & set(self.model.satisfying(filter))
        self._delete(
            self.database.delete("c", ids=chosen, filter=filter, request_id=request_id), gone, request_id
        )

    @rule(filter=filters, request_id=request_ids)
    def delete_filter(self, filter: Filter, request_id: str) -> None:
        gone = set(self.model.satisfying(filter))
        self._delete(self.database.delete("c", filter=filter, request_id=request_id), gone, request_id)

    def _delete(self, count: int, gone: set[str], request_id: str) -> None:
        if request_id and ("delete", request_id) in self.answers:
            assert count == self.answers["delete", request_id]
            return
        assert count == len(gone)
        self.answers["delete", request_id] = count
        for id in gone:
            del self.model.points[id]

    @rule(numbers=vectors, filter=st.none() | filters, top_k=st.integers(1, 20))
    def query(self, numbers: list[float], filter: Filter | None, top_k: int) -> None:
        vector = np.array(numbers, dtype=np.float32)
        self._check_query([QueryPart(vector)], normalised(vector, self.metric), set(), filter, top_k)

    @precondition(lambda self: self.model.points)
    @rule(data=st.data(), numbers=vectors, filter=st.none() | filters)
    def query_like(self, data: st.DataObject, numbers: list[float], filter: Filter | None) -> None:
        id = data.draw(st.sampled_from(sorted(self.model.points)))
        vector = np.array(numbers, dtype=np.float32)
        query = 3 * normalised(self.model.points[id][0], self.metric) - 0.5 * normalised(vector, self.metric)
        if np.linalg.norm(query) < 1e-3:
            return
        parts = [QueryPart(stored_id=id, weight=3.0), QueryPart(vector, weight=-0.5)]
        self._check_query(parts, normalised(query, self.metric), {id}, filter, 20)

    def _check_query(
        self, parts: list[QueryPart], query: Wide, left_out: set[str], filter: Filter | None, top_k: int
    ) -> None:
        hits = self.database.query("c", parts, filter=filter, top_k=top_k)
        scores = self.model.scores(query, self.metric)
        candidates = [id for id in self.model.satisfying(filter) if id not in left_out]
        found = [hit.point.id for hit in hits]
        assert len(set(found)) == len(found) == min(top_k, len(candidates))
        assert set(found) <= set(candidates)
        best = sorted((scores[id] for id in candidates), reverse=True)[:top_k]
        assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-5)
        assert [hit.score for hit in hits] == pytest.approx([scores[id] for id in found], abs=1e-5)
        assert [(-hit.score, hit.point.id) for hit in hits] == sorted(
            (-hit.score, hit.point.id) for hit in hits
        )
        assert all(hit.point.payload == self.model.points[hit.point.id][1] for hit in hits)

    @rule(filter=st.none() | filters)
    def count(self, filter: Filter | None) -> None:
        assert self.database.count("c", filter) == len(self.model.satisfying(filter))

    @rule(filter=st.none() | filters, page_size=st.integers(1, 5))
    def scroll(self, filter: Filter | None, page_size: int) -> None:
        found: list[str] = []
        token = "first"
        while token:
            token = "" if token == "first" else token
            page, token = self.database.scroll("c", filter=filter, page_size=page_size, page_token=token)
            found += [point.id for point in page]
        assert found == self.model.satisfying(filter)

    @rule(chosen=st.lists(ids, max_size=4, unique=True))
    def get(self, chosen: list[str]) -> None:
        found, missing = self.database.get("c", chosen, with_vector=True)
        assert missing == [id for id in chosen if id not in self.model.points]
        assert [point.id for point in found] == [id for id in chosen if id in self.model.points]
        for point in found:
            vector, payload = self.model.points[point.id]
            assert point.payload == payload
            assert point.vector is not None
            assert point.vector.tolist() == pytest.approx(normalised(vector, self.metric).tolist(), abs=1e-6)

    @rule()
    def restart(self) -> None:
        self.database.close()
        self.database = Database(self.directory.name)

    @invariant()
    def the_count_is_right(self) -> None:
        assert self.database.get_collection("c").point_count == len(self.model.points)


class DotDatabaseMachine(DatabaseMachine):
    metric = Metric.DOT


@pytest.mark.long
@pytest.mark.parametrize("machine", [DatabaseMachine, DotDatabaseMachine])
def test_a_database_does_as_its_model(machine: type[DatabaseMachine]) -> None:
    bounds = settings(
        max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(machine, settings=bounds)


def test_a_database_does_as_its_model_for_a_while() -> None:
    bounds = settings(
        max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(DatabaseMachine, settings=bounds)
