"""What several tests of the index build: vectors, points and Hypothesis strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mplug_index import Condition, Exists, Filter, HasId, Match, NumberRange, PayloadValue, Point, TimeRange
from mplug_index.types import FloatArray

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
IDS = [f"id{number}" for number in range(12)] + ["猫", "\x00", "é'; DROP TABLE points; --"]


def vector(*numbers: float) -> FloatArray:
    return np.array(numbers, dtype=np.float32)


def random_vectors(count: int, dimension: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def sample_points(vectors: FloatArray, prefix: str = "p") -> list[Point]:
    """Points p0000, p0001, … with a number, a keyword of three, a bool, a time and tags."""
    return [
        Point(
            f"{prefix}{number:04}",
            each,
            {
                "number": float(number),
                "colour": ("red", "green", "blue")[number % 3],
                "even": number % 2 == 0,
                "time": EPOCH + timedelta(hours=number),
                "tags": ("all", f"tag{number % 5}"),
            },
        )
        for number, each in enumerate(vectors)
    ]


# Few keys and few values, so that conditions meet payloads often.
keys = st.sampled_from(["a", "b", "c'\"); --"])
keywords = st.sampled_from(["x", "y", "Ünï", "", "x' OR 1=1", "\x00"])
numbers = st.sampled_from([-1.5, 0.0, 0.1, 1.0, 2.0, 1e300])
times = st.sampled_from([EPOCH + timedelta(microseconds=step) for step in (-1, 0, 1, 10**12)])
payload_values: st.SearchStrategy[PayloadValue] = st.one_of(
    keywords, numbers, st.booleans(), times, st.lists(keywords, max_size=3).map(tuple)
)
payloads = st.dictionaries(keys, payload_values, max_size=3)


ENDS = ("gte", "gt", "lte", "lt")


# Any: numbers or times, as `kind` takes them.
def _ranges(kind: Callable[..., Condition], bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[Condition]:
    """Ranges with one bound or two, none of them empty."""

    def build(key: str, given: list[Any], below: str, above: str) -> Condition:
        low, high = sorted(given)
        return kind(key, gte=low, lte=high) if low == high else kind(key, **{below: low, above: high})

    def build_one(key: str, bound: Any, end: str) -> Condition:
        return kind(key, **{end: bound})

    pairs = st.lists(bounds, min_size=2, max_size=2)
    two = st.builds(build, keys, pairs, st.sampled_from(ENDS[:2]), st.sampled_from(ENDS[2:]))
    return st.one_of(two, st.builds(build_one, keys, bounds, st.sampled_from(ENDS)))


def _matches(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Condition]:
    return st.builds(Match, keys, st.lists(values, min_size=1, max_size=3).map(tuple))


leaf_conditions: st.SearchStrategy[Condition] = st.one_of(
    _matches(keywords),
    _matches(numbers),
    _matches(st.booleans()),
    _matches(times),
    _ranges(NumberRange, numbers),
    _ranges(TimeRange, times),
    st.builds(Exists, keys, st.booleans()),
    st.builds(HasId, st.lists(st.sampled_from(IDS), min_size=1, max_size=4).map(tuple)),
)


def _filters_of(conditions: st.SearchStrategy[Condition]) -> st.SearchStrategy[Filter]:
    clauses = st.lists(conditions, max_size=2).map(tuple)
    return st.builds(Filter, must=clauses, should=clauses, must_not=clauses)


filters: st.SearchStrategy[Filter] = _filters_of(
    st.recursive(leaf_conditions, lambda inner: _filters_of(inner), max_leaves=4)
)


def satisfies(condition: Condition, id: str, payload: dict[str, PayloadValue]) -> bool:
    """The meaning of a filter, said apart from the library: the comments of proto/mplug_api/v1/common.proto."""
    if isinstance(condition, Filter):
        must = [satisfies(each, id, payload) for each in condition.must]
        should = [satisfies(each, id, payload) for each in condition.should]
        must_not = [satisfies(each, id, payload) for each in condition.must_not]
        return all(must) and (any(should) or not should) and not any(must_not)
    if isinstance(condition, HasId):
        return id in condition.ids
    there = condition.key in payload
    if isinstance(condition, Exists):
        return there is condition.present
    if not there:
        return False
    value = payload[condition.key]
    if isinstance(condition, Match):
        held: Sequence[PayloadValue] = value if isinstance(value, tuple) else [value]
        return any(type(a) is type(b) and a == b for a in held for b in condition.values)
    if type(value) is not (float if isinstance(condition, NumberRange) else datetime):
        return False
    return (
        (condition.gte is None or condition.gte <= value)  # type: ignore[operator]  # of one type, as checked
        and (condition.gt is None or condition.gt < value)  # type: ignore[operator]
        and (condition.lte is None or condition.lte >= value)  # type: ignore[operator]
        and (condition.lt is None or condition.lt > value)  # type: ignore[operator]
    )
