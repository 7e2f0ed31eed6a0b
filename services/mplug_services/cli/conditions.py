"""Conditions as they are typed: `kind=drawing`, `price<10`, `tags=cat|dog`, `time>=2024-05-01`."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from mplug_index.filters import Condition, MatchValue
from mplug_services.cli.common import UsageError
from mplug_services.client import Exists, Filter, Match, NumberRange, TimeRange

HELP = (
    "KEY=VALUE, KEY!=VALUE, KEY=A|B (any of them), KEY<N, KEY<=N, KEY>N, KEY>=N (numbers, or times such as "
    "2024-05-01 or 2024-05-01T12:00:00Z), KEY=* (has the field), KEY!=* (has it not). A value is read as a "
    'number or as true or false where it looks like one; quotes make it a word: year="2024". '
    "May be given several times: all must hold."
)

_CONDITION = re.compile(r"^(?P<key>[^=<>!]+?)\s*(?P<operator>!=|<=|>=|=|<|>)\s*(?P<value>.*)$", re.DOTALL)
_NUMBER = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def parse_filter(conditions: Sequence[str]) -> Filter | None:
    """All conditions together; None where there are none.

    Raises:
        UsageError: One cannot be read.
    """
    if not conditions:
        return None
    must: list[Condition] = []
    must_not: list[Condition] = []
    for text in conditions:
        match = _CONDITION.match(text.strip())
        if match is None or not match["value"].strip():
            raise UsageError(f"--filter {text!r} cannot be read. It takes {HELP}")
        (must_not if match["operator"] == "!=" else must).append(_condition(text, match))
    return Filter(must=tuple(must), must_not=tuple(must_not))


def _condition(text: str, match: re.Match[str]) -> Condition:
    key, operator, value = match["key"].strip(), match["operator"], match["value"].strip()
    if operator in _BOUNDS:
        return _range(text, key, _BOUNDS[operator], value)
    if value == "*":
        return Exists(key, present=True)
    return Match(key, tuple(_value(part.strip()) for part in value.split("|")))


def _range(text: str, key: str, bound: str, value: str) -> Condition:
    if _NUMBER.match(value):
        return NumberRange(key, **{bound: float(value)})
    try:
        time = parse_time(value)
    except ValueError as error:
        raise UsageError(f"--filter {text!r}: {value!r} is neither a number nor a time") from error
    return TimeRange(key, **{bound: time})


def _value(text: str) -> MatchValue:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    return float(text) if _NUMBER.match(text) else text


def parse_time(text: str) -> datetime:
    """An ISO 8601 time; one without a zone is UTC.

    Raises:
        ValueError: It is none.
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
