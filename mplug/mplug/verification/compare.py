"""Two runs of one computation: which stage is the first that differs, and where in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_TOLERANCE = 1e-5
"""float32 rounds at 6e-8; sums in another order, a few dozen layers deep, stay below this."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where a stage differs."""

    stage: str
    index: tuple[int, ...] | None
    """Of the value; None = the shapes differ."""
    ours: str
    """The value or the shape here, as text; so is the other."""
    reference: str

    def __str__(self) -> str:
        where = "the shape" if self.index is None else f"[{', '.join(map(str, self.index))}]"
        return f"{self.stage}, {where}: ours {self.ours}, ModelScope's {self.reference}"


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One stage of both runs."""

    stage: str
    shape: tuple[int, ...]
    """Ours."""
    difference: float
    """Largest difference over the reference's largest value; infinite where the shapes differ."""
    limit: float
    """What it may be; 0 for ids."""
    first: Difference | None
    """Where the limit is first exceeded, in reading order."""

    @property
    def ok(self) -> bool:
        """Whether the stage is equal within its limit."""
        return self.first is None


def compare(
    ours: Mapping[str, Array], reference: Mapping[str, Array], *, tolerance: float = DEFAULT_TOLERANCE
) -> tuple[StageComparison, ...]:
    """Compare the stages that the reference has, in our order.

    Args:
        ours: arrays by stage, in the order in which the data meets them.
        reference: arrays by the same names; those behind the point where the reference stopped are not there.
        tolerance: largest difference of floats, relative to the stage's largest value.

    Raises:
        AssertionError: the reference has a stage that we do not.
    """
    strays = reference.keys() - ours.keys()
    assert not strays, f"the reference has stages of its own: {sorted(strays)}"
    return tuple(
        compare_stage(stage, array, reference[stage], tolerance=tolerance)
        for stage, array in ours.items()
        if stage in reference
    )


def compare_stage(
    stage: str, ours: Array, reference: Array, *, tolerance: float = DEFAULT_TOLERANCE
) -> StageComparison:
    """Compare one stage: whole numbers exactly, floats within the tolerance; arguments as in `compare`."""
    exact = np.issubdtype(ours.dtype, np.integer) and np.issubdtype(reference.dtype, np.integer)
    limit = 0.0 if exact else tolerance
    if ours.shape != reference.shape:
        first = _first_of_other_length(stage, ours, reference) if exact else None
        first = first or Difference(stage, None, str(ours.shape), str(reference.shape))
        return StageComparison(stage, ours.shape, np.inf, limit, first)
    relative = _relative(ours, reference)
    beyond = np.argwhere(relative > limit)
    difference = float(relative.max(initial=0.0))
    if not len(beyond):
        return StageComparison(stage, ours.shape, difference, limit, None)
    index = tuple(int(number) for number in beyond[0])
    first = Difference(stage, index, _shown(ours[index]), _shown(reference[index]))
    return StageComparison(stage, ours.shape, difference, limit, first)


def _relative(ours: Array, reference: Array) -> NDArray[np.float64]:
    here, there = ours.astype(np.float64), reference.astype(np.float64)
    # Equal infinities and NaNs at the same place are the same outcome; any other meeting with them is not.
    same = (here == there) | (np.isnan(here) & np.isnan(there))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(here - there))
    apart = np.where(np.isfinite(apart), apart, np.inf)
    scale = np.abs(there[np.isfinite(there)]).max(initial=0.0)
    if scale == 0:
        return np.where(apart > 0, np.inf, 0.0)
    relative: NDArray[np.float64] = apart / scale
    return relative


def _first_of_other_length(stage: str, ours: Array, reference: Array) -> Difference | None:
    """Texts of unequal length: the first token that differs, or the first that only one of them has."""
    if ours.ndim != 1 or reference.ndim != 1:
        return None
    shared = min(len(ours), len(reference))
    apart = np.flatnonzero(ours[:shared] != reference[:shared])
    place = int(apart[0]) if len(apart) else shared
    shown = [_shown(ids[place]) if place < len(ids) else "ended" for ids in (ours, reference)]
    return Difference(stage, (place,), *shown)


def _shown(value: Any) -> str:
    return str(int(value)) if isinstance(value, np.integer) else f"{float(value):.9g}"
