"""Which stage differs first, and where in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from mplug.verification.compare import compare, compare_stage

TOLERANCE = 1e-5
floats = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=5),
    elements=st.floats(-100, 100, width=32),
)


@given(floats)
def test_equal_arrays_are_equal(array: NDArray[np.float32]) -> None:
    found = compare_stage("states", array, array.copy(), tolerance=TOLERANCE)
    assert (found.ok, found.difference, found.shape) == (True, 0.0, array.shape)


@given(floats, st.data())
def test_a_planted_difference_is_found_at_its_place(array: NDArray[np.float32], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, array.size - 1))
    planted = array.astype(np.float64)
    planted.flat[place] += 2 * TOLERANCE * max(1.0, float(np.abs(array).max()))
    first = compare_stage("states", planted, array, tolerance=TOLERANCE).first
    assert first is not None
    assert first.index == tuple(map(int, np.unravel_index(place, array.shape)))
    assert float(first.reference) == pytest.approx(float(array.flat[place]), rel=1e-6)
    assert float(first.ours) != float(first.reference)


@given(floats, st.floats(-0.9, 0.9))
def test_rounding_is_no_difference(array: NDArray[np.float32], share: float) -> None:
    moved = array.astype(np.float64) + share * TOLERANCE * np.abs(array).max()
    found = compare_stage("states", moved, array, tolerance=TOLERANCE)
    assert found.ok
    assert found.difference <= TOLERANCE


def test_the_first_of_several_is_in_reading_order_whatever_their_size() -> None:
    reference = np.ones((2, 3), dtype=np.float32)
    ours = reference.copy()
    ours[1, 0], ours[0, 2] = 50, 1.5
    found = compare_stage("states", ours, reference)
    assert str(found.first) == "states, [0, 2]: ours 1.5, ModelScope's 1"
    assert found.difference == 49


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_on_one_side_differs(bad: float) -> None:
    good = np.array([1.0, 2.0])
    spoilt = np.array([1.0, bad])
    for ours, reference in ((spoilt, good), (good, spoilt)):
        found = compare_stage("states", ours, reference)
        assert found.first is not None
        assert (found.first.index, found.difference) == ((1,), np.inf)
    assert compare_stage("states", spoilt, spoilt.copy()).ok


def test_a_stage_of_zeros_takes_nothing_else() -> None:
    zeros = np.zeros(3)
    assert compare_stage("states", zeros, zeros).ok
    assert compare_stage("states", np.array([0, 1e-9, 0]), zeros).difference == np.inf


@pytest.mark.parametrize(
    ("ours", "reference", "message"),
    [
        ([101, 7, 102], [101, 8, 102], "ids, [1]: ours 7, ModelScope's 8"),
        ([101, 7, 9, 102], [101, 8, 102], "ids, [1]: ours 7, ModelScope's 8"),
        ([101, 7], [101, 7, 102], "ids, [2]: ours ended, ModelScope's 102"),
        ([101, 7, 102], [101], "ids, [1]: ours 7, ModelScope's ended"),
    ],
)
def test_ids_are_compared_exactly(ours: list[int], reference: list[int], message: str) -> None:
    found = compare_stage("ids", np.array(ours), np.array(reference), tolerance=0.5)
    assert str(found.first) == message
    assert (found.limit, found.ok) == (0, False)


def test_another_shape_is_named() -> None:
    found = compare_stage("states", np.zeros((1, 3)), np.zeros((1, 4)))
    assert str(found.first) == "states, the shape: ours (1, 3), ModelScope's (1, 4)"
    assert found.difference == np.inf


def test_stages_come_in_our_order_up_to_where_the_reference_stopped() -> None:
    ours = {name: np.ones(2) for name in ("pixels", "tower", "ids")}
    found = compare(ours, {"tower": np.zeros(2), "pixels": np.ones(2)})
    assert [(one.stage, one.ok) for one in found] == [("pixels", True), ("tower", False)]
    with pytest.raises(AssertionError, match="bridge"):
        compare(ours, {"bridge": np.ones(2)})
