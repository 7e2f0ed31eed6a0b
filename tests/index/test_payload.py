from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings

from index.index_samples import EPOCH, payloads
from mplug_index import PayloadValue
from mplug_index.errors import InvalidPayloadError
from mplug_index.payload import (
    Kind,
    canonical_payload,
    decode_payload,
    encode_payload,
    field_rows,
    from_micros,
    to_micros,
)

REFUSED: dict[str, tuple[dict[str, object], str, str]] = {
    "NaN": ({"a": math.nan}, "finite", "payload.a"),
    "infinity": ({"a": -math.inf}, "finite", "payload.a"),
    "an int beyond doubles": ({"a": 10**400}, "finite", "payload.a"),
    "None": ({"a": None}, "not NoneType", "payload.a"),
    "bytes": ({"a": b"x"}, "not bytes", "payload.a"),
    "a dict": ({"a": {}}, "not dict", "payload.a"),
    "a number among keywords": ({"a": ("x", 1)}, "keywords must be str", "payload.a"),
    "a naive time": ({"a": datetime(2024, 1, 1)}, "time zone", "payload.a"),
    "a time that UTC cannot hold": (
        {"a": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
        "out of range",
        "payload.a",
    ),
    "a surrogate": ({"a": "\ud800"}, "UTF-8", "payload.a"),
    "a surrogate among keywords": ({"a": ("\ud800",)}, "UTF-8", "payload.a"),
    "a surrogate in the key": ({"\ud800": 1}, "UTF-8", "payload"),
    "a long keyword": ({"a": "x" * 16_385}, "16384 bytes", "payload.a"),
    "many keywords": ({"a": ("x",) * 1025}, "1024 keywords", "payload.a"),
    "a long key": ({"k" * 129: "x"}, "128 bytes", "payload"),
    "an empty key": ({"": "x"}, "not empty", "payload"),
    "many fields": ({f"k{number}": "x" for number in range(257)}, "256 fields", "payload"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused_with_its_field(name: str) -> None:
    payload, text, field = REFUSED[name]
    with pytest.raises(InvalidPayloadError, match=text) as raised:
        canonical_payload(payload)  # type: ignore[arg-type]  # refused
    assert raised.value.field == field


def test_values_take_their_canonical_form() -> None:
    local = datetime(2024, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    given = {"int": 3, "np": np.float32(0.5), "bool": True, "time": local, "list": ["a", "a"]}
    payload = canonical_payload(given)  # type: ignore[arg-type]  # lists and numpy numbers do, too
    assert payload == {"int": 3.0, "np": 0.5, "bool": True, "time": EPOCH, "list": ("a", "a")}
    assert [type(value) for value in payload.values()] == [float, float, bool, datetime, tuple]


@settings(max_examples=200, deadline=None)
@given(payload=payloads)
def test_payload_comes_back_as_it_went(payload: dict[str, PayloadValue]) -> None:
    back = decode_payload(encode_payload(canonical_payload(payload)))
    assert back == payload
    assert [type(value) for value in back.values()] == [type(value) for value in payload.values()]


def test_times_keep_their_microseconds() -> None:
    for time in (
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ):
        assert from_micros(to_micros(time)) == time


def test_field_rows_are_what_filters_look_up() -> None:
    rows = field_rows({"k": "x", "n": 2.0, "b": True, "t": from_micros(5), "l": ("p", "q", "p"), "e": ()})
    assert rows == [
        ("k", Kind.KEYWORD, "x"),
        ("n", Kind.NUMBER, 2.0),
        ("b", Kind.BOOL, 1),
        ("t", Kind.TIME, 5),
        ("l", Kind.KEYWORD, "p"),
        ("l", Kind.KEYWORD, "q"),
        ("e", Kind.PRESENT, 0),
    ]
