"""Filters from protobuf to the index's own, with the path of what is wrong with them."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from mplug_api.v1 import common_pb2 as pb
from mplug_index.errors import InvalidFilterError
from mplug_index.filters import (
    MAX_DEPTH,
    Condition,
    Exists,
    Filter,
    HasId,
    Match,
    MatchValue,
    NumberRange,
    TimeRange,
)
from mplug_services.errors import ServiceError, invalid_argument
from mplug_services.wire import check_key, read_time, read_value


def read_filter(message: pb.Filter, field: str = "filter") -> Filter:
    """A filter; `ServiceError` names the condition that cannot be."""
    return _read(message, field, depth=1)


def _read(message: pb.Filter, field: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise _invalid(field, f"filters may be nested {MAX_DEPTH} deep")
    clauses = {
        name: tuple(
            _condition(condition, f"{field}.{name}[{place}]", depth)
            for place, condition in enumerate(conditions)
        )
        for name, conditions in (
            ("must", message.must),
            ("should", message.should),
            ("must_not", message.must_not),
        )
    }
    try:
        return Filter(**clauses)
    except InvalidFilterError as error:
        raise _invalid(field, str(error)) from error


def _condition(message: pb.Condition, field: str, depth: int) -> Condition:
    kind = message.WhichOneof("condition")
    if kind == "filter":
        return _read(message.filter, f"{field}.filter", depth + 1)
    try:
        if kind == "field":
            return _field(message.field, f"{field}.field")
        if kind == "ids":
            return HasId(tuple(message.ids.ids))
    except InvalidFilterError as error:
        raise _invalid(field, str(error)) from error
    raise _invalid(field, "the condition is empty")


def _field(message: pb.FieldCondition, field: str) -> Condition:
    check_key(message.key, f"{field}.key")
    predicate = message.WhichOneof("predicate")
    if predicate == "match":
        return Match(message.key, _match_values(message.match, f"{field}.match"))
    if predicate == "number_range":
        return _number_range(message.key, message.number_range)
    if predicate == "time_range":
        return _time_range(message.key, message.time_range, f"{field}.time_range")
    if predicate == "exists":
        return Exists(message.key, message.exists)
    raise _invalid(field, "the condition has no predicate")


def _match_values(message: pb.MatchAny, field: str) -> tuple[MatchValue, ...]:
    values: list[MatchValue] = []
    for place, each in enumerate(message.values):
        value = read_value(each, f"{field}.values[{place}]")
        if isinstance(value, tuple):
            raise _invalid(
                f"{field}.values[{place}]", "a list of keywords; give each keyword as a value of its own"
            )
        values.append(value)
    return tuple(values)


def _number_range(key: str, message: pb.NumberRange) -> NumberRange:
    return NumberRange(
        key,
        gte=message.gte if message.HasField("gte") else None,
        gt=message.gt if message.HasField("gt") else None,
        lte=message.lte if message.HasField("lte") else None,
        lt=message.lt if message.HasField("lt") else None,
    )


def _time_range(key: str, message: pb.TimeRange, field: str) -> TimeRange:
    def bound(present: bool, stamp: Timestamp, name: str) -> datetime | None:
        return read_time(stamp, f"{field}.{name}") if present else None

    return TimeRange(
        key,
        gte=bound(message.HasField("gte"), message.gte, "gte"),
        gt=bound(message.HasField("gt"), message.gt, "gt"),
        lte=bound(message.HasField("lte"), message.lte, "lte"),
        lt=bound(message.HasField("lt"), message.lt, "lt"),
    )


def _invalid(field: str, message: str) -> ServiceError:
    return invalid_argument(field, message, reason="INVALID_FILTER")
