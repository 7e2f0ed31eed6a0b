from __future__ import annotations

import threading

import numpy as np
import pytest

from index.index_samples import random_vectors, vector
from mplug_index import vector_index
from mplug_index.types import FloatArray, IntArray
from mplug_index.vector_index import FlatIndex, Hits, VectorIndex


def filled(vectors: FloatArray, first: int = 100) -> FlatIndex:
    index = FlatIndex(vectors.shape[1])
    index.add(np.arange(first, first + len(vectors), dtype=np.int64), vectors)
    return index


def expected(vectors: FloatArray, query: FloatArray, places: IntArray, k: int, first: int = 100) -> list[int]:
    scores = vectors[places].astype(np.float64) @ query.astype(np.float64)
    return [int(places[place]) + first for place in np.argsort(-scores)[:k]]


def ints(*numbers: int) -> IntArray:
    return np.array(numbers, dtype=np.int64)


def test_search_is_exact_and_best_first() -> None:
    vectors = random_vectors(500, 16)
    index: VectorIndex = filled(vectors)
    hits = index.search(vectors[7], 20)
    assert hits.sequences.tolist() == expected(vectors, vectors[7], np.arange(500), 20)
    assert hits.scores.tolist() == sorted(hits.scores.tolist(), reverse=True)


def test_an_empty_index_finds_nothing() -> None:
    index = FlatIndex(2)
    assert len(index) == 0
    assert index.search(vector(1, 0), 5).sequences.tolist() == []
    assert index.search(vector(1, 0), 5, allowed=ints()).sequences.tolist() == []
    index.add(ints(), np.empty((0, 2), dtype=np.float32))
    assert len(index) == 0


def test_k_may_be_more_than_there_are() -> None:
    index = filled(random_vectors(3, 4))
    assert len(index.search(random_vectors(1, 4)[0], 10**9).sequences) == 3


def test_what_is_removed_is_gone_at_once_and_later_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "_MAX_DEAD", 5)
    vectors = random_vectors(60, 8)
    index = filled(vectors)
    left = set(range(60))
    for place in range(0, 40, 3):
        index.remove(ints(place + 100))
        left.remove(place)
        hits = index.search(vectors[0], 60)
        assert hits.sequences.tolist() == expected(vectors, vectors[0], np.array(sorted(left)), 60)
        assert len(index) == len(left)
    assert index.search(vectors[0], 1).sequences.tolist() == expected(
        vectors, vectors[0], np.array(sorted(left)), 1
    )


@pytest.mark.parametrize("allowed_count", [0, 1, 50, 3000])
def test_allowed_and_excluded_are_kept_on_both_paths(allowed_count: int) -> None:
    """50 are scored by themselves, 3000 of 4000 picked in a scan."""
    vectors = random_vectors(4000, 8)
    index = filled(vectors)
    places = np.random.default_rng(1).permutation(4000)[:allowed_count]
    excluded = [int(place) + 100 for place in places[:2]]
    hits = index.search(vectors[3], 30, allowed=places + 100, excluded=excluded)
    assert hits.sequences.tolist() == expected(vectors, vectors[3], places[2:], 30)


def test_both_paths_score_alike_to_the_bit() -> None:
    vectors = random_vectors(5000, 100)
    index = filled(vectors)
    everything = index.search(vectors[0], 5000)
    scores = dict(zip(everything.sequences.tolist(), everything.scores.tolist(), strict=True))
    for count in (200, 4000):
        hits = index.search(vectors[0], 50, allowed=np.arange(100, 100 + count, dtype=np.int64))
        assert [scores[each] for each in hits.sequences.tolist()] == hits.scores.tolist()


def test_a_selector_that_is_ignored_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_vectors(4000, 8)
    index = filled(vectors)
    scan = FlatIndex._scan

    def ignoring(self: FlatIndex, query: FloatArray, k: int, parameters: object) -> Hits:
        return scan(self, query, k, None)

    monkeypatch.setattr(FlatIndex, "_scan", ignoring)
    places = np.arange(0, 4000, 2)
    hits = index.search(vectors[1], 10, allowed=places + 100)
    assert hits.sequences.tolist() == expected(vectors, vectors[1], places, 10)


def test_searches_run_side_by_side() -> None:
    vectors = random_vectors(2000, 32)
    index = filled(vectors)
    wrong: list[int] = []
    start = threading.Barrier(4)

    def search(first: int) -> None:
        start.wait()
        for place in range(first, first + 50):
            if int(index.search(vectors[place] * 100, 1).sequences[0]) not in expected(
                vectors, vectors[place], np.arange(2000), 1
            ):
                wrong.append(place)

    threads = [threading.Thread(target=search, args=(50 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
