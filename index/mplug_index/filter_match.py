"""Whether a point satisfies a filter, in plain Python: the check behind the SQL (`filter_sql`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mplug_index.filters import Condition, Exists, Filter, HasId, Match, NumberRange, TimeRange
from mplug_index.types import Payload, PayloadValue


def matches(condition: Condition, id: str, payload: Payload) -> bool:
    """Whether a point satisfies a condition.

    Args:
        condition: A condition or a whole filter.
        id: The point's id.
        payload: The point's payload, in canonical form (`payload.canonical_payload`).
    """
    if isinstance(condition, Filter):
        return _matches_filter(condition, id, payload)
    if isinstance(condition, HasId):
        return id in condition.ids
    value = payload.get(condition.key)
    if isinstance(condition, Exists):
        return (value is not None) == condition.present
    if value is None:
        return False
    if isinstance(condition, Match):
        return _matches_value(condition, value)
    if isinstance(condition, TimeRange):
        return isinstance(value, datetime) and _within(condition, value)
    return isinstance(value, float) and _within(condition, value)


def _matches_filter(filter: Filter, id: str, payload: Payload) -> bool:
    return (
        all(matches(each, id, payload) for each in filter.must)
        and not any(matches(each, id, payload) for each in filter.must_not)
        and (not filter.should or any(matches(each, id, payload) for each in filter.should))
    )


def _matches_value(condition: Match, value: PayloadValue) -> bool:
    if isinstance(value, tuple):
        return any(each in condition.values for each in value)
    # True == 1.0 in Python; here a bool is no number.
    return type(value) is type(condition.values[0]) and value in condition.values


# Any: the value was checked to be of the bounds' type, and both compare.
def _within(bounds: NumberRange | TimeRange, value: Any) -> bool:
    return (
        (bounds.gte is None or value >= bounds.gte)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.lte is None or value <= bounds.lte)
        and (bounds.lt is None or value < bounds.lt)
    )
