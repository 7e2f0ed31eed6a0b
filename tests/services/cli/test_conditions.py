from datetime import UTC, datetime

import pytest

from mplug_services.cli.common import UsageError
from mplug_services.cli.conditions import parse_filter
from mplug_services.client import Exists, Filter, Match, NumberRange, TimeRange


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind=drawing", Match("kind", ("drawing",))),
        ("kind = drawing", Match("kind", ("drawing",))),
        ("tags=cat|dog", Match("tags", ("cat", "dog"))),
        ("count=3", Match("count", (3.0,))),
        ("public=true", Match("public", (True,))),
        ('year="2024"', Match("year", ("2024",))),
        ('flag="true"', Match("flag", ("true",))),
        ("url=a=b", Match("url", ("a=b",))),
        ("label_zh=猫", Match("label_zh", ("猫",))),
        ("price<10", NumberRange("price", lt=10.0)),
        ("price<=1e1", NumberRange("price", lte=10.0)),
        ("price>-0.5", NumberRange("price", gt=-0.5)),
        ("price>=.5", NumberRange("price", gte=0.5)),
        ("taken>=2024-05-01", TimeRange("taken", gte=datetime(2024, 5, 1, tzinfo=UTC))),
        ("taken<2024-05-01T14:00:00+02:00", TimeRange("taken", lt=datetime(2024, 5, 1, 12, tzinfo=UTC))),
        ("licence=*", Exists("licence", present=True)),
    ],
)
def test_a_condition_reads_as_it_is_typed(text: str, expected: object) -> None:
    assert parse_filter([text]) == Filter(must=(expected,))  # type: ignore[arg-type]  # the table's column


@pytest.mark.parametrize(
    ("text", "expected"),
    [("kind!=photo", Match("kind", ("photo",))), ("licence!=*", Exists("licence", present=True))],
)
def test_a_negated_condition_must_not_hold(text: str, expected: Match | Exists) -> None:
    assert parse_filter([text]) == Filter(must_not=(expected,))


def test_several_conditions_must_all_hold() -> None:
    parsed = parse_filter(["kind=drawing", "style!=noto", "count>1"])
    assert parsed == Filter(
        must=(Match("kind", ("drawing",)), NumberRange("count", gt=1.0)),
        must_not=(Match("style", ("noto",)),),
    )


def test_no_condition_is_no_filter() -> None:
    assert parse_filter([]) is None


@pytest.mark.parametrize("text", ["kind", "=x", "kind=", "price<cheap", "price<", ""])
def test_what_cannot_be_read_is_named_with_the_syntax(text: str) -> None:
    with pytest.raises(UsageError, match="--filter"):
        parse_filter([text])
