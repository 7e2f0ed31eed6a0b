"""Names of labels, from wherever a ModelScope folder keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mplug.errors import ConfigError


def find_labels(
    label_mapping: Mapping[str, Any] | None, configuration: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[str, ...]:
    """Labels in the order of their numbers, from the first place that names them, as ModelScope looks for them.

    Args:
        label_mapping: `label_mapping.json`, label to number; None = no such file.
        configuration: `configuration.json`; its sections `model` and `preprocessor` may hold `label2id` or `id2label`,
            and before them all, `dataset.train.labels` a list.
        config: `config.json`, which may hold the same; or `num_labels`, then the labels are `0`, `1`...

    Returns:
        The labels; none where no file names any.

    Raises:
        ConfigError: something that is no mapping of labels, or whose numbers are not 0, 1, 2...
    """
    for place, labels in _places(label_mapping, configuration, config):
        numbers = sorted(labels.values())
        if numbers != list(range(len(labels))):
            raise ConfigError(f"{place} numbers its {len(labels)} labels {numbers}; they must be 0, 1, 2...")
        return tuple(sorted(labels, key=lambda label: labels[label]))
    count = config.get("num_labels", 0)
    return tuple(str(number) for number in range(count if isinstance(count, int) else 0))


def _places(
    label_mapping: Mapping[str, Any] | None, configuration: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, int]]]:
    listed = section(configuration, "dataset", "train").get("labels")
    if isinstance(listed, list):
        yield "dataset.train.labels", {str(label): number for number, label in enumerate(listed)}
    if label_mapping is not None:
        yield "label_mapping.json", _label2id(label_mapping, "label_mapping.json")
    sections = {
        "configuration.json's model": section(configuration, "model"),
        "configuration.json's preprocessor": section(configuration, "preprocessor"),
        "config.json": config,
    }
    for place, found in sections.items():
        if "label2id" in found:
            yield f"{place}.label2id", _label2id(found["label2id"], f"{place}.label2id")
        elif "id2label" in found:
            yield f"{place}.id2label", _id2label(found["id2label"], f"{place}.id2label")


def _label2id(values: Any, place: str) -> dict[str, int]:
    return {label: _whole(number, place) for label, number in _mapping(values, place).items()}


def _id2label(values: Any, place: str) -> dict[str, int]:
    return {str(label): _whole(number, place) for number, label in _mapping(values, place).items()}


def _mapping(values: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place} is {values!r}; it must map labels and numbers")
    return values


def _whole(number: Any, place: str) -> int:
    try:
        return int(number)
    except (TypeError, ValueError):
        raise ConfigError(f"{place} holds {number!r} where a label's number must be") from None


def need_two(labels: Sequence[str]) -> int:
    """How many labels a classifier has.

    Raises:
        ConfigError: fewer than two.
    """
    if len(labels) < 2:
        raise ConfigError(
            f"the model has {len(labels)} labels, and a classifier needs two; name them, or give a folder whose "
            "label_mapping.json or configuration.json does"
        )
    return len(labels)


def section(values: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """An object inside objects; an empty one where there is none."""
    for key in keys:
        found = values.get(key, {})
        values = found if isinstance(found, Mapping) else {}
    return values
