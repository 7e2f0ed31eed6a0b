"""Vectors as they come in: checked, float32, normalised under cosine; and query vectors of several parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mplug_index.errors import DimensionMismatchError, InvalidVectorError
from mplug_index.types import FloatArray, Metric

MAX_DIMENSION = 65_536
MAX_NORM = 1e18
"""Longer vectors are refused, so that a dot product of two never leaves float32 (3.4e38)."""

_ZERO_SUM = 1e-6
"""A sum this short, relative to its weights, is rounding noise of parts that cancel out (float32: 6e-8)."""


def check_dimension(dimension: int) -> None:
    """Refuses what cannot be the length of a vector.

    Raises:
        DimensionMismatchError: It is not an int of 1 to 65,536.
    """
    if not isinstance(dimension, int) or isinstance(dimension, bool) or not 1 <= dimension <= MAX_DIMENSION:
        text = f"dimension must be an int of 1 to {MAX_DIMENSION}, not {dimension!r}"
        raise DimensionMismatchError(text, field="dimension")


def prepare_vector(vector: object, dimension: int, metric: Metric, *, field: str = "vector") -> FloatArray:
    """A vector as it is stored: float32 (D,), contiguous, of length 1 under cosine.

    Raises:
        DimensionMismatchError: Its shape is not (D,).
        InvalidVectorError: It holds NaN, infinity or no numbers, or is zero under cosine, or is too long.
    """
    if vector is None:
        raise InvalidVectorError("a point needs a vector", field=field)
    try:
        with np.errstate(over="ignore"):  # becomes infinity, which is refused below
            array = np.array(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidVectorError("a vector must be an array of numbers", field=field) from None
    if array.shape != (dimension,):
        got = array.shape[0] if array.ndim == 1 else f"shape {array.shape}"
        raise DimensionMismatchError(f"a vector of {dimension} numbers was expected, not {got}", field=field)
    if not np.isfinite(array).all():
        raise InvalidVectorError("a vector must be finite; it holds NaN or infinity", field=field)
    return _scaled(array, metric, field)


def _scaled(array: FloatArray, metric: Metric, field: str) -> FloatArray:
    norm = float(np.linalg.norm(array.astype(np.float64)))
    if metric is Metric.COSINE:
        if norm == 0.0:
            raise InvalidVectorError("a zero vector has no direction, which cosine needs", field=field)
        return (array.astype(np.float64) / norm).astype(np.float32)
    if norm > MAX_NORM:
        raise InvalidVectorError(f"a vector's length may be {MAX_NORM:g}, not {norm:g}", field=field)
    return array


def combine(vectors: Sequence[FloatArray], weights: Sequence[float], metric: Metric) -> FloatArray:
    """The query vector: the sum of prepared vectors, each times its weight.

    Args:
        vectors: float32 (D,) each, from `prepare_vector`.
        weights: One for each vector; negative means "unlike this".
        metric: Under cosine the sum is normalised, so that scores are cosines.

    Raises:
        InvalidVectorError: A weight is not finite, or the parts cancel out.
    """
    for weight in weights:
        if not math.isfinite(weight):
            raise InvalidVectorError(f"a weight must be finite, not {weight}", field="parts.weight")
    # Weights count relative to each other under cosine; scaled, the largest cannot overflow.
    heaviest = max(abs(weight) for weight in weights)
    if heaviest == 0.0:
        raise InvalidVectorError("all weights are zero; give one part another", field="parts.weight")
    scaled = [weight / heaviest for weight in weights]
    total = np.zeros(len(vectors[0]), dtype=np.float64)
    size = 0.0
    for vector, weight in zip(vectors, scaled, strict=True):
        part = vector.astype(np.float64)
        total += weight * part
        size += abs(weight) * float(np.linalg.norm(part))
    if float(np.linalg.norm(total)) <= _ZERO_SUM * size:
        text = "the parts of the query cancel out to zero; change a part or a weight"
        raise InvalidVectorError(text, field="parts")
    if metric is Metric.COSINE:
        total /= np.linalg.norm(total)
        return total.astype(np.float32)
    total *= heaviest
    if float(np.linalg.norm(total)) > MAX_NORM:
        text = f"the query vector's length may be {MAX_NORM:g}; lower the weights"
        raise InvalidVectorError(text, field="parts.weight")
    return total.astype(np.float32)
