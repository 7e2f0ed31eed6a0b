"""Filters over typed payload, checked when they are made. Needs nothing but the standard library.

A point satisfies a `Filter` when it satisfies all of `must`, none of `must_not`, and at least one of
`should` where `should` is not empty. A point without a field does not satisfy a condition on it (so a
`must_not` of that condition is satisfied). A field with several keywords satisfies a `Match` when any of
them does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Real
from typing import Any, TypeAlias

from mplug_index.errors import InvalidFilterError

MAX_CONDITIONS = 256
"""Conditions and nested filters of a filter, all together (SQLite's expression trees end at 1000 levels)."""
MAX_DEPTH = 16
"""Levels of nested filters."""
MAX_VALUES = 30_000
"""Values and ids of a filter, all together (SQLite binds at most 32,766 in a statement)."""

MatchValue: TypeAlias = str | float | bool | datetime


@dataclass(frozen=True, slots=True)
class Match:
    """The field equals one of `values`, which are all of one kind."""

    key: str
    values: tuple[MatchValue, ...]

    def __post_init__(self) -> None:
        _check_key(self.key)
        given = _members(f"Match on {self.key!r}", self.values)
        values = tuple(_match_value(self.key, value) for value in given)
        kinds = sorted({type(value).__name__ for value in values})
        if len(kinds) > 1:
            text = f"the values of Match on {self.key!r} must be of one kind, not {' and '.join(kinds)}"
            raise InvalidFilterError(text, field="filter")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, slots=True)
class NumberRange:
    """The field is a number within every bound that is given."""

    key: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        for bound in ("gte", "gt", "lte", "lt"):
            value = getattr(self, bound)
            if value is not None:
                object.__setattr__(self, bound, _number(self.key, value))
        _check_bounds(self.key, self.gte, self.gt, self.lte, self.lt)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The field is a time within every bound that is given; bounds are aware."""

    key: str
    gte: datetime | None = None
    gt: datetime | None = None
    lte: datetime | None = None
    lt: datetime | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        for bound in ("gte", "gt", "lte", "lt"):
            value = getattr(self, bound)
            if value is not None:
                object.__setattr__(self, bound, _time(self.key, value))
        _check_bounds(self.key, self.gte, self.gt, self.lte, self.lt)


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there (`present`), or is not."""

    key: str
    present: bool = True

    def __post_init__(self) -> None:
        _check_key(self.key)
        if not isinstance(self.present, bool):
            raise InvalidFilterError(f"Exists on {self.key!r}: present must be True or False", field="filter")


@dataclass(frozen=True, slots=True)
class HasId:
    """The point's id is one of these."""

    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        ids = _members("HasId", self.ids)
        for each in ids:
            _check_text("an id", each)
        object.__setattr__(self, "ids", ids)


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must`, none of `must_not`, and at least one of `should` where it is not empty.

    An empty filter is satisfied by every point. Filters nest.
    """

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        for clause in ("must", "should", "must_not"):
            members = tuple(getattr(self, clause))
            for condition in members:
                if not isinstance(condition, Condition):
                    text = f"{clause} holds a {type(condition).__name__}, which is no condition"
                    raise InvalidFilterError(text, field="filter")
            object.__setattr__(self, clause, members)
        # A nested filter was checked when it was made, so that this walk is never deeper than the limit.
        depth, conditions, values = _measure(self)
        _check_limit("levels", depth, MAX_DEPTH)
        _check_limit("conditions", conditions, MAX_CONDITIONS)
        _check_limit("values and ids", values, MAX_VALUES)


Condition: TypeAlias = Match | NumberRange | TimeRange | Exists | HasId | Filter


def _measure(condition: Condition) -> tuple[int, int, int]:
    """Levels, conditions, and values and ids of a condition."""
    if isinstance(condition, Filter):
        parts = [_measure(each) for each in (*condition.must, *condition.should, *condition.must_not)]
        depth = 1 + max((each[0] for each in parts), default=0)
        return depth, 1 + sum(each[1] for each in parts), sum(each[2] for each in parts)
    if isinstance(condition, Match):
        return 0, 1, len(condition.values)
    if isinstance(condition, HasId):
        return 0, 1, len(condition.ids)
    return 0, 1, 0


def _check_limit(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidFilterError(f"a filter may have {limit} {what}, not {count}", field="filter")


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidFilterError(f"{what} must be a str, not {type(text).__name__}", field="filter")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidFilterError(f"{what} is not UTF-8: {text!r}", field="filter") from None


def _members(what: str, values: object) -> tuple[object, ...]:
    """What a condition lists, as a tuple."""
    # A str is iterable, too, and would silently become its letters.
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidFilterError(f"{what} takes a tuple of values", field="filter")
    members = tuple(values)
    if not members:
        raise InvalidFilterError(f"{what} has no values; give one or more", field="filter")
    return members


def _check_key(key: object) -> None:
    _check_text("a key", key)
    if key == "":
        raise InvalidFilterError("a condition needs a key", field="filter")


def _match_value(key: str, value: object) -> MatchValue:
    """The value in canonical form: numbers are floats, times are UTC."""
    if isinstance(value, str):
        _check_text(f"a value of {key!r}", value)
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, datetime):
        return _time(key, value)
    if isinstance(value, Real):
        return _number(key, value)
    text = f"a value of {key!r} must be a str, number, bool or datetime, not {type(value).__name__}"
    raise InvalidFilterError(text, field="filter")


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        text = f"a number was expected for {key!r}, not a {type(value).__name__}"
        raise InvalidFilterError(text, field="filter")
    try:
        number = float(value)
    except OverflowError:
        raise InvalidFilterError(f"a number for {key!r} is too large for a double", field="filter") from None
    if math.isnan(number):
        raise InvalidFilterError(f"NaN equals no number and bounds none; {key!r} has it", field="filter")
    return number


def _time(key: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        text = f"a datetime was expected for {key!r}, not a {type(value).__name__}"
        raise InvalidFilterError(text, field="filter")
    if value.utcoffset() is None:
        raise InvalidFilterError(f"a time for {key!r} needs a time zone: {value}", field="filter")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidFilterError(
            f"a time for {key!r} is out of range in UTC: {value}", field="filter"
        ) from None


# Any: the bounds are all numbers or all times, and compare among themselves.
def _check_bounds(key: str, gte: Any, gt: Any, lte: Any, lt: Any) -> None:
    lower = [bound for bound in (gte, gt) if bound is not None]
    upper = [bound for bound in (lte, lt) if bound is not None]
    if not lower and not upper:
        raise InvalidFilterError(f"the range on {key!r} has no bound; give one or more", field="filter")
    if not lower or not upper:
        return
    low, high = max(lower), min(upper)
    if low > high or (low == high and (low == gt or high == lt)):
        text = f"the range on {key!r} is empty: nothing lies between {low} and {high}"
        raise InvalidFilterError(text, field="filter")
