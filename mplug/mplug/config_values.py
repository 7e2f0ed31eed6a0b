"""Dataclasses from JSON values, with every mistake named by its place."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from mplug.errors import ConfigError

C = TypeVar("C")


def build(cls: type[C], values: Any, *, where: str) -> C:
    """Make a dataclass of nested JSON values.

    Args:
        cls: a dataclass; its fields are plain values, mappings, tuples of floats, or dataclasses again.
        values: by field name; anything that is not a mapping is refused.
        where: name of the place, for messages; "" = the configuration itself.

    Raises:
        ConfigError: an unknown key, a missing key, or a value of the wrong kind; the message names it.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be a JSON object, not {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        known = ", ".join(sorted(fields))
        raise ConfigError(
            f"unknown keys in {where or 'the configuration'}: {', '.join(unknown)}; known are {known}"
        )
    missing = sorted(name for name, f in fields.items() if _required(f) and name not in values)
    if missing:
        raise ConfigError(f"missing keys in {where or 'the configuration'}: {', '.join(missing)}")
    prefix = f"{where}." if where else ""
    return cls(**{name: _value(hints[name], value, where=prefix + name) for name, value in values.items()})


def build_known(cls: type[C], values: Mapping[str, Any], **defaults: Any) -> C:
    """Make a dataclass of another's settings, of which it knows some.

    Args:
        cls: as in `build`; all its fields have defaults.
        values: by field name; what no field is named after is left alone.
        defaults: where the settings' are others than the dataclass's.

    Raises:
        ConfigError: a value of the wrong kind.
    """
    names = {item.name for item in dataclasses.fields(typing.cast(Any, cls))}
    return build(
        cls, {**defaults, **{name: value for name, value in values.items() if name in names}}, where=""
    )


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, *, where: str) -> Any:
    kinds: tuple[Any, ...] = typing.get_args(hint) or (hint,)
    nested = _dataclass_among(kinds)
    if value is None and type(None) in kinds:
        return value
    if nested is not None:
        return build(nested, value, where=where)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(float, item, where=where) for item in value)
    if (
        origin is not None
        and isinstance(origin, type)
        and issubclass(origin, Mapping)
        and isinstance(value, Mapping)
    ):
        return dict(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
        return value
    raise ConfigError(
        f"{where} is {value!r}; it must be {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}"
    )


def _dataclass_among(kinds: tuple[Any, ...]) -> type | None:
    # `Part`, or the part of `Part | None`.
    for kind in kinds:
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return kind
    return None
