"""Typed payload: its canonical form, its text in the database, and the rows that filters look in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from numbers import Real
from typing import Any, TypeAlias

from mplug_index.errors import InvalidPayloadError
from mplug_index.types import Payload, PayloadValue

MAX_FIELDS = 256
MAX_KEY_BYTES = 128
MAX_KEYWORD_BYTES = 16_384
MAX_KEYWORDS = 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(IntEnum):
    """How a field's value is stored; comparisons stay within one kind."""

    PRESENT = 0
    """The field is there and has no value: an empty list of keywords."""
    KEYWORD = 1
    NUMBER = 2
    BOOL = 3
    TIME = 4
    """Microseconds since 1970, UTC."""


FieldValue: TypeAlias = str | float | int
FieldRow: TypeAlias = tuple[str, int, FieldValue]
"""key, kind, value."""


def canonical_payload(payload: Payload) -> dict[str, PayloadValue]:
    """The payload with floats for numbers, UTC times and tuples of keywords.

    Raises:
        InvalidPayloadError: A value is of no known type, not finite, naive, too large or not UTF-8.
    """
    if len(payload) > MAX_FIELDS:
        raise InvalidPayloadError(
            f"a payload may have {MAX_FIELDS} fields, not {len(payload)}", field="payload"
        )
    for key in payload:
        if not isinstance(key, str) or not key:
            raise InvalidPayloadError(
                f"a payload key must be a str that is not empty, not {key!r}", field="payload"
            )
        _check_size(f"the payload key {key[:40]!r}", key, MAX_KEY_BYTES, "payload")
    return {key: _canonical_value(f"payload.{key}", value) for key, value in payload.items()}


def _canonical_value(field: str, value: object) -> PayloadValue:
    if isinstance(value, str):
        _check_size("a keyword", value, MAX_KEYWORD_BYTES, field)
        return str(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, Real):
        return _canonical_number(field, value)
    if isinstance(value, datetime):
        return _canonical_time(field, value)
    if isinstance(value, tuple | list):
        return _canonical_keywords(field, value)
    text = f"a value must be a str, number, bool, datetime or tuple of str, not {type(value).__name__}"
    raise InvalidPayloadError(text, field=field)


def _canonical_number(field: str, value: Real) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidPayloadError(f"a number must be finite, not {number}", field=field)
    return number


def _canonical_time(field: str, value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise InvalidPayloadError(f"a time needs a time zone: {value}", field=field)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidPayloadError(f"a time is out of range in UTC: {value}", field=field) from None


def _canonical_keywords(field: str, values: Iterable[object]) -> tuple[str, ...]:
    keywords = []
    for value in values:
        if not isinstance(value, str):
            raise InvalidPayloadError(f"keywords must be str, not {type(value).__name__}", field=field)
        _check_size("a keyword", value, MAX_KEYWORD_BYTES, field)
        keywords.append(str(value))
    if len(keywords) > MAX_KEYWORDS:
        raise InvalidPayloadError(
            f"a field may have {MAX_KEYWORDS} keywords, not {len(keywords)}", field=field
        )
    return tuple(keywords)


def _check_size(what: str, text: str, limit: int, field: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidPayloadError(f"{what} is not UTF-8", field=field) from None
    if size > limit:
        raise InvalidPayloadError(f"{what} may have {limit} bytes, not {size}", field=field)


def to_micros(time: datetime) -> int:
    """Microseconds since 1970 of an aware time, exactly."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The UTC time of `to_micros`."""
    return _EPOCH + timedelta(microseconds=micros)


def encode_payload(payload: dict[str, PayloadValue]) -> str:
    """JSON of a canonical payload: a time is {"t": microseconds}, the rest is what JSON has."""
    return json.dumps(
        {
            key: {"t": to_micros(value)} if isinstance(value, datetime) else value
            for key, value in payload.items()
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def decode_payload(text: str) -> dict[str, PayloadValue]:
    """The canonical payload of `encode_payload`."""
    return {key: _decode_value(value) for key, value in json.loads(text).items()}


# Any: what JSON holds.
def _decode_value(value: Any) -> PayloadValue:
    if isinstance(value, dict):
        return from_micros(value["t"])
    if isinstance(value, list):
        return tuple(value)
    assert isinstance(value, str | float | bool), "a payload holds nothing else"
    return value


def field_rows(payload: dict[str, PayloadValue]) -> list[FieldRow]:
    """The rows by which filters find a point; equal keywords of a field are one row."""
    rows: list[FieldRow] = []
    for key, value in payload.items():
        if isinstance(value, tuple):
            rows += [(key, Kind.KEYWORD, each) for each in dict.fromkeys(value)] or [(key, Kind.PRESENT, 0)]
        else:
            rows.append((key, *typed_value(value)))
    return rows


def typed_value(value: str | float | bool | datetime) -> tuple[int, FieldValue]:
    """Kind and stored form of one value."""
    if isinstance(value, str):
        return Kind.KEYWORD, value
    if isinstance(value, bool):
        return Kind.BOOL, int(value)
    if isinstance(value, datetime):
        return Kind.TIME, to_micros(value)
    return Kind.NUMBER, value
