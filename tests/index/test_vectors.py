from __future__ import annotations

import math

import numpy as np
import pytest

from index.index_samples import vector
from mplug_index import Metric
from mplug_index.errors import DimensionMismatchError, InvalidVectorError
from mplug_index.vectors import check_dimension, combine, prepare_vector


@pytest.mark.parametrize("dimension", [0, -1, 65_537, True, 2.0, "3"])
def test_a_dimension_that_is_none_is_refused(dimension: object) -> None:
    with pytest.raises(DimensionMismatchError, match="1 to 65536"):
        check_dimension(dimension)  # type: ignore[arg-type]  # refused


def test_cosine_normalises_and_dot_does_not() -> None:
    assert prepare_vector(vector(3, 4), 2, Metric.COSINE).tolist() == pytest.approx([0.6, 0.8])
    assert prepare_vector(vector(3, 4), 2, Metric.DOT).tolist() == [3.0, 4.0]
    assert prepare_vector(vector(0, 0), 2, Metric.DOT).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 3e38])
def test_cosine_normalises_any_length(scale: float) -> None:
    prepared = prepare_vector(np.array([scale, 0.0], dtype=np.float32), 2, Metric.COSINE)
    assert prepared.tolist() == [1.0, 0.0]


def test_the_callers_array_is_left_alone() -> None:
    mine = vector(3, 4)
    prepared = prepare_vector(mine, 2, Metric.DOT)
    mine[0] = 9
    assert prepared.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("bad", "metric", "error", "text"),
    [
        (None, Metric.DOT, InvalidVectorError, "needs a vector"),
        (vector(1, 2, 3), Metric.DOT, DimensionMismatchError, "2 numbers was expected, not 3"),
        (np.ones((1, 2), np.float32), Metric.DOT, DimensionMismatchError, r"shape \(1, 2\)"),
        (np.array(1.0), Metric.DOT, DimensionMismatchError, "shape"),
        (vector(1, math.nan), Metric.COSINE, InvalidVectorError, "finite"),
        (vector(math.inf, 1), Metric.DOT, InvalidVectorError, "finite"),
        ([1e300, 1.0], Metric.DOT, InvalidVectorError, "finite"),
        (vector(0, 0), Metric.COSINE, InvalidVectorError, "zero vector"),
        (vector(1e19, 0), Metric.DOT, InvalidVectorError, r"1e\+18"),
        (["a", "b"], Metric.DOT, InvalidVectorError, "array of numbers"),
        ([[1], [1, 2]], Metric.DOT, InvalidVectorError, "array of numbers"),
    ],
)
def test_what_is_no_vector_is_refused(bad: object, metric: Metric, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        prepare_vector(bad, 2, metric)


def test_parts_are_weighted_and_the_sum_is_normalised_under_cosine() -> None:
    parts = [vector(1, 0), vector(0, 1)]
    assert combine(parts, [3.0, -4.0], Metric.COSINE).tolist() == pytest.approx([0.6, -0.8])
    assert combine(parts, [3.0, -4.0], Metric.DOT).tolist() == [3.0, -4.0]
    assert combine(parts, [1e300, 0.0], Metric.COSINE).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize(
    "weights", [[1.0, -1.0], [0.0, 0.0], [math.nan, 1.0], [1.0, math.inf], [1.0, -1.0 - 1e-9]]
)
def test_parts_that_cancel_out_or_weigh_nothing_are_refused(metric: Metric, weights: list[float]) -> None:
    part = prepare_vector(vector(0.3, -0.7), 2, metric)
    with pytest.raises(InvalidVectorError) as raised:
        combine([part, part.copy()], weights, metric)
    assert raised.value.field.startswith("parts")


def test_weights_that_leave_float32_are_refused_under_dot() -> None:
    with pytest.raises(InvalidVectorError, match="lower the weights"):
        combine([vector(1, 1)], [1e30], Metric.DOT)
