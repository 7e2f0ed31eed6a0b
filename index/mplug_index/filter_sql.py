"""Filters as SQL over the table `fields`.

No text of a filter ever becomes SQL: keys, values and ids are bound parameters; the SQL is put together
from the constants of this file. `filter_match` says the same in Python, and a property test holds the two
together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mplug_index.filters import Condition, Exists, Filter, HasId, Match, NumberRange, TimeRange
from mplug_index.payload import FieldValue, Kind, to_micros, typed_value

_OPERATORS = (("gte", ">="), ("gt", ">"), ("lte", "<="), ("lt", "<"))


@dataclass(frozen=True, slots=True)
class Expression:
    """A boolean SQL expression over a row `p` of `points`, and what its question marks stand for."""

    sql: str
    parameters: tuple[FieldValue, ...] = ()


EVERYTHING = Expression("1")


def compile_filter(filter: Filter | None, collection: int) -> Expression:
    """The expression that is true for the points of a collection that satisfy the filter.

    Args:
        filter: None and the empty filter are satisfied by every point.
        collection: The collection's number.
    """
    return EVERYTHING if filter is None else _compile(filter, collection)


def digest(filter: Filter | None) -> str:
    """A short name of a filter, by which a page token knows its own."""
    return hashlib.sha256(repr(filter).encode()).hexdigest()[:16]


def _compile(condition: Condition, collection: int) -> Expression:
    if isinstance(condition, Filter):
        return _compile_nested(condition, collection)
    if isinstance(condition, HasId):
        return Expression(f"p.id IN ({_marks(condition.ids)})", condition.ids)
    if isinstance(condition, Exists):
        found = _among_fields("", collection, condition.key)
        return found if condition.present else _negated(found)
    if isinstance(condition, Match):
        return _compile_match(condition, collection)
    return _compile_range(condition, collection)


def _compile_nested(filter: Filter, collection: int) -> Expression:
    clauses = [_compile(each, collection) for each in filter.must]
    clauses += [_negated(_compile(each, collection)) for each in filter.must_not]
    if filter.should:
        clauses.append(_joined(" OR ", [_compile(each, collection) for each in filter.should]))
    return _joined(" AND ", clauses) if clauses else EVERYTHING


def _compile_match(condition: Match, collection: int) -> Expression:
    typed = [typed_value(value) for value in condition.values]
    values = tuple(value for _, value in typed)
    test = f" AND kind = ? AND value IN ({_marks(values)})"
    return _among_fields(test, collection, condition.key, typed[0][0], *values)


def _compile_range(condition: NumberRange | TimeRange, collection: int) -> Expression:
    test, values = " AND kind = ?", list[FieldValue]()
    for name, operator in _OPERATORS:
        bound = getattr(condition, name)
        if bound is not None:
            test += f" AND value {operator} ?"
            values.append(to_micros(bound) if isinstance(condition, TimeRange) else bound)
    kind = Kind.TIME if isinstance(condition, TimeRange) else Kind.NUMBER
    return _among_fields(test, collection, condition.key, kind, *values)


def _among_fields(test: str, collection: int, key: str, *values: FieldValue) -> Expression:
    sql = f"p.sequence IN (SELECT sequence FROM fields WHERE collection = ? AND key = ?{test})"
    return Expression(sql, (collection, key, *values))


def _negated(expression: Expression) -> Expression:
    return Expression(f"NOT ({expression.sql})", expression.parameters)


def _joined(word: str, expressions: list[Expression]) -> Expression:
    sql = word.join(f"({each.sql})" for each in expressions)
    return Expression(sql, tuple(value for each in expressions for value in each.parameters))


def _marks(values: tuple[object, ...]) -> str:
    return ", ".join("?" * len(values))
