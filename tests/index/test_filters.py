from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings

from index.index_samples import EPOCH, filters, payloads, satisfies
from mplug_index import Exists, Filter, HasId, Match, NumberRange, PayloadValue, TimeRange
from mplug_index.errors import InvalidFilterError
from mplug_index.filter_match import matches
from mplug_index.filter_sql import EVERYTHING, compile_filter, digest

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "match without values": (lambda: Match("a", ()), "no values"),
    "match of two kinds": (lambda: Match("a", ("x", 1.0)), "one kind, not float and str"),
    "match of bool and number": (lambda: Match("a", (True, 1)), "one kind, not bool and float"),
    "match with NaN": (lambda: Match("a", (math.nan,)), "NaN"),
    "match with a bare str": (lambda: Match("a", "xyz"), "takes a tuple"),  # type: ignore[arg-type]  # refused
    "match with nothing to iterate": (lambda: Match("a", 7), "takes a tuple"),  # type: ignore[arg-type]  # refused
    "match with a list in it": (lambda: Match("a", (("x",),)), "not tuple"),  # type: ignore[arg-type]  # refused
    "match with None": (lambda: Match("a", (None,)), "not NoneType"),  # type: ignore[arg-type]  # refused
    "match with a naive time": (lambda: Match("a", (datetime(2024, 1, 1),)), "time zone"),
    "match with a surrogate": (lambda: Match("a", ("\ud800",)), "UTF-8"),
    "match with a number beyond doubles": (lambda: Match("a", (10**400,)), "too large"),
    "no key": (lambda: Match("", ("x",)), "needs a key"),
    "a key that is no str": (lambda: Exists(3), "must be a str"),  # type: ignore[arg-type]  # refused
    "range without bounds": (lambda: NumberRange("a"), "no bound"),
    "range upside down": (lambda: NumberRange("a", gte=2, lte=1), "empty"),
    "range of one number without it": (lambda: NumberRange("a", gt=1, lte=1), "empty"),
    "range emptied by its narrower bound": (lambda: NumberRange("a", gte=0, gt=5, lte=9, lt=5), "empty"),
    "range with NaN": (lambda: NumberRange("a", gt=math.nan), "NaN"),
    "range with a bool": (lambda: NumberRange("a", gt=True), "number was expected"),
    "range with a time": (lambda: NumberRange("a", gt=EPOCH), "number was expected"),  # type: ignore[arg-type]  # refused
    "time range without bounds": (lambda: TimeRange("a"), "no bound"),
    "time range with a number": (lambda: TimeRange("a", gt=1.0), "datetime was expected"),  # type: ignore[arg-type]  # refused
    "time range upside down": (lambda: TimeRange("a", gt=EPOCH, lt=EPOCH), "empty"),
    "time that UTC cannot hold": (
        lambda: TimeRange("a", gt=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))),
        "out of range",
    ),
    "exists with a number": (lambda: Exists("a", 1), "True or False"),  # type: ignore[arg-type]  # refused
    "no ids": (lambda: HasId(()), "no values"),
    "ids in a bare str": (lambda: HasId("id"), "takes a tuple"),  # type: ignore[arg-type]  # refused
    "an id that is no str": (lambda: HasId((3,)), "must be a str"),  # type: ignore[arg-type]  # refused
    "a clause with a str": (lambda: Filter(must=("x",)), "no condition"),  # type: ignore[arg-type]  # refused
    "too many conditions": (lambda: Filter(must=(Exists("a"),) * 257), "256 conditions"),
    "too many values": (lambda: Filter(must=(HasId(("a",) * 30_001),)), "30000 values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_filter_that_cannot_be_meant_is_refused(name: str) -> None:
    make, text = REFUSED[name]
    with pytest.raises(InvalidFilterError, match=text) as raised:
        make()
    assert raised.value.field == "filter"
    assert isinstance(raised.value, ValueError)


def test_nesting_ends_at_sixteen_levels() -> None:
    filter = Filter()
    for _ in range(15):
        filter = Filter(must=(filter,))
    with pytest.raises(InvalidFilterError, match="16 levels"):
        Filter(should=(filter,))


def test_values_take_their_canonical_form() -> None:
    local = datetime(2024, 1, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    assert Match("a", [1, 2.0]).values == (1.0, 2.0)  # type: ignore[arg-type]  # lists do, too
    assert all(type(value) is float for value in Match("a", (1, 2)).values)
    assert Match("a", (local,)).values == (EPOCH,)
    assert TimeRange("a", gte=local).gte == datetime(2024, 1, 1, tzinfo=UTC)
    assert Filter(must=[Exists("a")]).must == (Exists("a"),)  # type: ignore[arg-type]  # lists do, too


def test_infinite_bounds_are_bounds() -> None:
    assert matches(NumberRange("a", gte=-math.inf), "id", {"a": -1e308})
    assert not matches(NumberRange("a", gte=math.inf), "id", {"a": 1e308})


def test_the_sql_of_a_filter_holds_none_of_its_text() -> None:
    evil = "'); DROP TABLE points; --"
    filter = Filter(
        must=(Match(evil, (evil,)), Exists(evil)), should=(HasId((evil,)), NumberRange(evil, gt=1, lte=2))
    )
    compiled = compile_filter(filter, 7)
    assert "DROP" not in compiled.sql
    assert "'" not in compiled.sql
    assert compiled.sql.count("?") == len(compiled.parameters)
    assert compiled.parameters.count(evil) == 5


def test_no_filter_and_the_empty_filter_are_satisfied_by_all() -> None:
    assert compile_filter(None, 1) == compile_filter(Filter(), 1) == EVERYTHING
    assert matches(Filter(), "id", {})


def test_a_digest_tells_filters_apart() -> None:
    some = [
        None,
        Filter(),
        Filter(must=(Exists("a"),)),
        Filter(must_not=(Exists("a"),)),
        Filter(must=(Exists("b"),)),
    ]
    assert len({digest(filter) for filter in some}) == len(some)
    assert digest(Filter(must=(Match("a", (1,)),))) == digest(Filter(must=(Match("a", (1.0,)),)))


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (Filter(must=(Match("missing", ("x",)),)), False),
        (Filter(must_not=(Match("missing", ("x",)),)), True),
        (Filter(must=(Match("tags", ("b", "z")),)), True),
        (Filter(must_not=(Match("tags", ("b",)),)), False),
        (Filter(must=(Exists("none"),)), True),
        (Filter(must=(Match("none", ("",)),)), False),
        (Filter(must=(Match("flag", (1.0,)),)), False),
        (Filter(must=(Match("number", (True,)),)), False),
        (Filter(must=(NumberRange("flag", gte=0),)), False),
        (Filter(must=(NumberRange("tags", gte=0),)), False),
        (Filter(must=(TimeRange("number", gte=EPOCH),)), False),
        (Filter(should=(Exists("missing"), Exists("flag"))), True),
        (Filter(should=(Exists("missing"),), must=(Exists("flag"),)), False),
        (Filter(must=(Filter(should=(HasId(("id",)), HasId(("other",)))),)), True),
    ],
)
def test_what_satisfies_what(filter: Filter, expected: bool) -> None:
    payload: dict[str, PayloadValue] = {"tags": ("a", "b"), "none": (), "flag": True, "number": 1.0}
    assert matches(filter, "id", payload) is expected
    assert satisfies(filter, "id", payload) is expected


@settings(max_examples=300, deadline=None)
@given(filter=filters, payload=payloads)
def test_the_check_of_results_means_what_the_proto_says(
    filter: Filter, payload: dict[str, PayloadValue]
) -> None:
    assert matches(filter, "id3", payload) == satisfies(filter, "id3", payload)
