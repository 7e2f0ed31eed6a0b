"""The door between messages and what the services work with."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import cast

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mplug_api.v1 import common_pb2 as pb
from mplug_api.v1.search_service_pb2 import QueryPart
from mplug_index.filters import Exists, Filter, HasId, Match, NumberRange, TimeRange
from mplug_index.types import PayloadValue
from mplug_services import wire
from mplug_services.embedder import StageSeconds
from mplug_services.errors import ServiceError
from mplug_services.image_reader import ImageUri
from mplug_services.wire_filter import read_filter

HALF, FULL = pb.VECTOR_DTYPE_FLOAT16, pb.VECTOR_DTYPE_FLOAT32


def keyword(text: str) -> pb.Value:
    return pb.Value(keyword=text)


@given(st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=20), st.sampled_from([HALF, FULL]))
def test_vectors_come_back(numbers: list[float], dtype: int) -> None:
    vector = np.array(numbers, dtype=np.float32)
    message = wire.write_vector(vector, dtype)
    assert (len(message.data), message.dtype) == (len(vector) * (2 if dtype == HALF else 4), dtype)
    np.testing.assert_array_equal(wire.read_vector(message, "vector"), vector)


def test_vectors_are_little_endian() -> None:
    assert wire.write_vector(np.array([1.0], dtype=np.float32)).data == b"\x00\x00\x80\x3f"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.Vector(), "v: the vector is empty"),
        (pb.Vector(data=b"12345"), "v: 5 bytes are no whole number of 4-byte floats"),
        (pb.Vector(data=b"123", dtype=HALF), "v: 3 bytes are no whole number of 2-byte"),
        (pb.Vector(data=np.array([0, math.nan], dtype="<f4").tobytes()), "v: number 1 is nan"),
        (pb.Vector(data=np.array([math.inf], dtype="<f2").tobytes(), dtype=HALF), "v: number 0 is inf"),
        # A number that the enum does not have yet: what a newer client may send.
        (pb.Vector(data=b"1234", dtype=cast("pb.VectorDtype.ValueType", 9)), "v.dtype: 9 is no known"),
    ],
)
def test_wrong_vectors_are_refused(message: pb.Vector, text: str) -> None:
    with pytest.raises(ServiceError, match=text):
        wire.read_vector(message, "v")


payload_values: st.SearchStrategy[PayloadValue] = st.one_of(
    st.text(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),
    st.lists(st.text(), max_size=4).map(tuple),
)


@given(st.dictionaries(st.text().filter(lambda key: not key.startswith("_")), payload_values, max_size=5))
def test_payloads_come_back(payload: dict[str, PayloadValue]) -> None:
    assert wire.read_payload(wire.write_payload(payload), "payload") == payload


def test_reserved_keys_are_neither_written_nor_seen() -> None:
    assert set(wire.write_payload({"_sha256": "ab", "tag": "x"})) == {"tag"}
    with pytest.raises(ServiceError, match=r"payload\['_uri'\]: keys that begin with '_'"):
        wire.read_payload({"_uri": keyword("x")}, "payload")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pb.Value(), "the value has no kind"),
        (pb.Value(number=math.nan), "nan cannot be stored"),
        (pb.Value(number=-math.inf), "-inf cannot be stored"),
        (pb.Value(time=Timestamp(seconds=10**15)), "no valid time"),
    ],
)
def test_wrong_values_are_refused(value: pb.Value, text: str) -> None:
    with pytest.raises(ServiceError, match=text):
        wire.read_value(value, "v")


def test_times_of_other_zones_become_utc() -> None:
    there = datetime(2024, 5, 1, 12, 30, 0, 1, tzinfo=timezone(timedelta(hours=8)))
    assert wire.read_time(wire.write_time(there), "t") == there
    assert wire.read_time(wire.write_time(there), "t").tzinfo is UTC


def test_only_stages_that_ran_have_timings() -> None:
    timings = wire.write_timings(StageSeconds(prepare=0.25, index=0.0), started=0.0)
    assert timings.prepare.ToTimedelta() == timedelta(seconds=0.25)
    assert [timings.HasField(name) for name in ("queue", "forward", "index", "total")] == [
        False,
        False,
        True,
        True,
    ]


def test_images_have_one_source() -> None:
    assert wire.read_image(pb.ImageInput(data=b"x"), "i") == b"x"
    assert wire.read_image(pb.ImageInput(uri="a/b.png"), "i") == ImageUri("a/b.png")
    with pytest.raises(ServiceError, match="i: the picture has neither data nor uri"):
        wire.read_image(pb.ImageInput(), "i")


@pytest.mark.parametrize("text", ["", " ", "\n\t  \u3000"])
def test_texts_without_words_are_refused(text: str) -> None:
    with pytest.raises(ServiceError, match="the text is empty"):
        wire.check_text(text, "text", 100)


def test_sizes_have_limits() -> None:
    with pytest.raises(ServiceError, match="101 bytes of text; the limit is 100"):
        wire.check_text("é" * 50 + "x", "text", 100)
    with pytest.raises(ServiceError, match="3 items; the limit is 2"):
        wire.check_batch(3, "images", 2)
    with pytest.raises(ServiceError, match="at least one"):
        wire.check_batch(0, "images", 2)
    assert [wire.read_limited(value, "top_k", 10, 50) for value in (0, 1, 50)] == [10, 1, 50]
    assert wire.read_limited(0, "top_k", 10, 5) == 5
    for value in (-1, 51):
        with pytest.raises(ServiceError, match=f"{value} is not within 1 and 50"):
            wire.read_limited(value, "top_k", 10, 50)


@pytest.mark.parametrize(("weight", "expected"), [(None, 1.0), (-0.5, -0.5), (2.0, 2.0)])
def test_weights(weight: float | None, expected: float) -> None:
    assert wire.read_weight(QueryPart(text="x", weight=weight), "parts[0]") == expected


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_weights_that_weigh_nothing_are_refused(weight: float) -> None:
    with pytest.raises(ServiceError, match=r"parts\[0\].weight"):
        wire.read_weight(QueryPart(text="x", weight=weight), "parts[0]")


def field(key: str, **predicate: object) -> pb.Condition:
    return pb.Condition(field=pb.FieldCondition(key=key, **predicate))  # type: ignore[arg-type]  # by name


def test_filters_of_every_kind() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    message = pb.Filter(
        must=[
            field("tag", match=pb.MatchAny(values=[keyword("a"), keyword("b")])),
            field("size", number_range=pb.NumberRange(gte=1, lt=9)),
            field("taken", time_range=pb.TimeRange(gt=wire.write_time(start))),
        ],
        should=[pb.Condition(ids=pb.IdCondition(ids=["x", "y"])), field("seen", exists=False)],
        must_not=[pb.Condition(filter=pb.Filter(must=[field("seen", exists=True)]))],
    )
    assert read_filter(message) == Filter(
        must=(
            Match("tag", ("a", "b")),
            NumberRange("size", gte=1.0, lt=9.0),
            TimeRange("taken", gt=start),
        ),
        should=(HasId(("x", "y")), Exists("seen", False)),
        must_not=(Filter(must=(Exists("seen"),)),),
    )


def nested(depth: int) -> pb.Filter:
    message = pb.Filter()
    for _ in range(depth - 1):
        message = pb.Filter(must=[pb.Condition(filter=message)])
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.Filter(must=[pb.Condition()]), r"filter.must\[0\]: the condition is empty"),
        (pb.Filter(should=[field("a")]), r"filter.should\[0\].field: the condition has no predicate"),
        (pb.Filter(must=[field("a", match=pb.MatchAny())]), r"filter.must\[0\]: Match on 'a' has no values"),
        (
            pb.Filter(must=[field("a", match=pb.MatchAny(values=[keyword("x"), pb.Value(number=1)]))]),
            "must be of one kind",
        ),
        (
            pb.Filter(must=[field("a", match=pb.MatchAny(values=[pb.Value(keywords=pb.KeywordList())]))]),
            r"match.values\[0\]: a list of keywords",
        ),
        (pb.Filter(must_not=[field("a", number_range=pb.NumberRange())]), r"must_not\[0\]: the range on 'a'"),
        (pb.Filter(must=[field("_uri", exists=True)]), r"must\[0\].field.key: keys that begin with '_'"),
        (nested(17), "filters may be nested 16 deep"),
    ],
)
def test_wrong_filters_name_the_condition(message: pb.Filter, text: str) -> None:
    with pytest.raises(ServiceError, match=text):
        read_filter(message)


def test_the_deepest_filter() -> None:
    assert read_filter(nested(15)) is not None
