"""The rows that a client sends, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mplug.images import sniff_format
from mplug.train.readers.example import TASK_FIELDS

PICTURE = "image"
"""The field of `TASK_FIELDS` that rows are sent with, not in."""
MAX_NAME_BYTES = 512
MAX_PART_BYTES = 200
"""Of a name between slashes: file systems take 255, and a temporary name is a little longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRow:
    """One row, without its picture."""

    name: str = ""
    captions: tuple[str, ...] = ()
    captions_zh: tuple[str, ...] = ()
    question: str = ""
    answers: tuple[str, ...] = ()
    weights: tuple[float | None, ...] = ()
    """Of the answers."""
    type: str = ""
    split: str = ""
    set: str = ""
    identity: str = ""
    text: str = ""
    target: str = ""


def faults(row: SentRow, task: str) -> Iterator[tuple[str, str]]:
    """What keeps a row from being trained on: field and reason.

    Args:
        row: its picture is looked at elsewhere.
        task: a key of `TASK_FIELDS`.
    """
    if row.name and (reason := _name_fault(row.name)):
        yield "name", reason
    for name in TASK_FIELDS[task]:
        if name != PICTURE and not _has(row, name):
            yield name, f"missing or empty, and the recipe needs it (its rows are of the task {task!r})"
    weights = [weight for weight in row.weights if weight is not None]
    if len(weights) not in (0, len(row.answers)):
        yield "answers", f"{len(weights)} weights for {len(row.answers)} answers; give one for each, or none"
    for number, weight in enumerate(row.weights):
        if weight is not None and not 0 < weight < math.inf:
            yield f"answers[{number}].weight", f"{weight} is no weight; give a number above 0"


def _has(row: SentRow, name: str) -> bool:
    texts = row.captions + row.captions_zh if name == "captions" else getattr(row, name)
    return any(text.strip() for text in ([texts] if isinstance(texts, str) else texts))


def _name_fault(name: str) -> str:
    """Names become files in a folder of the job's own, as they would be files beside a client's own rows."""
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"{len(name.encode())} bytes; the limit is {MAX_NAME_BYTES}"
    parts = name.split("/")
    if "\0" in name or any(part in ("", "..") or part.startswith(".") for part in parts):
        return f"{name!r} is no relative path of a picture, such as photos/3.jpg; no part of it begins with a dot"
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return f"a part of it is longer than {MAX_PART_BYTES} bytes"
    return ""


def has_picture(task: str) -> bool:
    """Whether rows of a task are of pictures."""
    return PICTURE in TASK_FIELDS[task]


def made_name(number: int, image: bytes) -> str:
    """The name of a picture that has none."""
    return f"{number:08d}.{(sniff_format(image) or 'image').lower()}"


def columns(row: SentRow) -> dict[str, Any]:
    """A row as `mplug.train.readers` takes it, with its picture's name if it has one. Any: texts and lists of JSON."""
    weights = [weight for weight in row.weights if weight is not None]
    values: dict[str, Any] = {
        PICTURE: str(PurePosixPath(row.name)) if row.name else "",
        "captions": list(row.captions),
        "captions_zh": list(row.captions_zh),
        "question": row.question,
        "answers": list(row.answers),
        "weights": weights,
        "type": row.type,
        "split": row.split,
        "set": row.set,
        "identity": row.identity,
        "text": row.text,
        "target": row.target,
    }
    return {name: value for name, value in values.items() if value}
