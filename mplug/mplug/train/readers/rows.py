"""From the columns of a row to an `Example`: which columns are which field, and what is refused."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mplug.errors import MplugError
from mplug.evaluation.vqa import VOTES
from mplug.train.readers.example import TASK_FIELDS, Answer, Example
from mplug.train.readers.pictures import Picture, PictureBytes, PictureFile
from mplug.train.splits import set_of

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "key": ("key", "id"),
    "image": ("image", "file_name"),
    "captions": ("captions", "caption"),
    "captions_zh": ("captions_zh", "caption_zh"),
    "question": ("question",),
    "answers": ("answers", "answer"),
    "weights": ("weights", "answer_weights"),
    "kind": ("type", "kind"),
    "language": ("lang", "language"),
    "label": ("label",),
    "text": ("text", "source"),
    "target": ("target", "summary"),
    "split": ("split",),
    "set_name": ("set",),
    "identity": ("identity", "emoji"),
}
"""Columns that a field is read from, the first one that a row has; `Columns.names` names another."""

_ALWAYS = ("key", "split", "set_name", "identity")
_COMPANIONS = {
    "captions": ("captions_zh",),
    "question": ("kind", "language"),
    "answers": ("weights",),
    "text": ("target",),
}
"""What is read along with a field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """How rows are read.

    Raises:
        MplugError: an unknown task, or a name for an unknown field.
    """

    task: str | None = None
    """A key of `TASK_FIELDS`: rows that lack what it needs are refused; None: any row will do."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The column of a field, where it is not one of `COLUMNS`."""
    images: Path | None = None
    """Folder that image paths are relative to; None: the folder of the file that names them."""

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASK_FIELDS:
            raise MplugError(f"No task {self.task!r} to read data for; there are {', '.join(TASK_FIELDS)}.")
        for name in self.names:
            if name not in COLUMNS:
                raise MplugError(f"No field {name!r} to name a column for; there are {', '.join(COLUMNS)}.")


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of one row and where it stands."""

    values: Mapping[str, Any]
    file: Path
    place: str
    """``line 3`` or ``row 3``."""
    split: str = ""
    """The split that its file or folder is named after, where the row names none."""
    picture: Picture | None = None
    """The picture, where it came beside the columns, …"""
    picture_name: str = ""
    """… and its name there."""

    def refuse(self, field_name: str, what: str) -> NoReturn:
        """Raises the error of this row."""
        raise MplugError(f"{self.file}, {self.place}, field {field_name!r}: {what}.")


def to_example(row: Row, columns: Columns) -> Example:
    """Reads a row.

    Raises:
        MplugError: a field is missing or of the wrong kind: file, line, field and remedy.
    """
    found = _Fields(row, columns)
    picture, name = (row.picture, row.picture_name) if row.picture else _picture(found, columns)
    captions = found.texts("captions")
    if picture is not None and not captions:
        captions = found.texts("text", wanted_for="captions")  # Hugging Face's image folders call it so
    example = Example(
        origin=f"{row.file}, {row.place}",
        key=found.text("key") or f"{row.file.name}:{row.place}",
        image=picture,
        image_name=name,
        captions=captions,
        captions_zh=found.texts("captions_zh"),
        question=found.text("question"),
        answers=_answers(found),
        kind=found.text("kind"),
        language=found.text("language"),
        label=found.text("label"),
        text=found.text("text") if picture is None else "",
        target=found.text("target"),
        split=found.text("split") or row.split,
        set_name=found.text("set_name") or set_of(name),
        identity=found.text("identity") or name,
    )
    _check_task(example, found, columns.task)
    return example


class _Fields:
    """A row's values by field; what the task does not need is not read, and so cannot be wrong."""

    def __init__(self, row: Row, columns: Columns) -> None:
        self.row = row
        self._names = columns.names
        needed = TASK_FIELDS[columns.task] if columns.task else tuple(COLUMNS)
        self._wanted = {*_ALWAYS, *needed, *(other for name in needed for other in _COMPANIONS.get(name, ()))}

    def candidates(self, name: str) -> tuple[str, ...]:
        return (self._names[name],) if name in self._names else COLUMNS[name]

    def value(self, name: str, wanted_for: str = "") -> Any:
        if (wanted_for or name) not in self._wanted:
            return None
        for column in self.candidates(name):
            value = self.row.values.get(column)
            if value is not None:
                return value
        return None

    def text(self, name: str) -> str:
        value = self.value(name)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.row.refuse(name, f"{_short(value)} is no text; give one text")
        return str(value).strip()

    def texts(self, name: str, wanted_for: str = "") -> tuple[str, ...]:
        values = _listed(self.value(name, wanted_for))
        for value in values:
            if not isinstance(value, str):
                self.row.refuse(name, f"{_short(value)} is no text; give one text or a list of texts")
        return tuple(value.strip() for value in values if value.strip())


def _picture(found: _Fields, columns: Columns) -> tuple[Picture | None, str]:
    value = found.value("image")
    if value is None or value == "":
        return None, ""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, value)
    if isinstance(path, bytes):
        data, path = path, None
    if data is not None and not isinstance(data, bytes):
        found.row.refuse("image", f"its bytes are {_short(data)}; give the bytes of an image file")
    if data:
        return PictureBytes(data), path or found.text("key") or f"{found.row.file.stem}/{found.row.place}"
    if not isinstance(path, str) or not path:
        found.row.refuse("image", f"{_short(value)} is neither a path nor an image file's bytes; give one")
    return PictureFile((columns.images or found.row.file.parent) / path), path


def _answers(found: _Fields) -> tuple[Answer, ...]:
    texts = found.texts("answers")
    weights = _listed(found.value("weights"))
    if not weights:
        counts = {text: texts.count(text) for text in texts}
        return tuple(Answer(text, count / len(texts), count) for text, count in counts.items())
    if len(weights) != len(texts):
        found.row.refuse("weights", f"{len(weights)} weights for {len(texts)} answers; give one for each")
    shares = [_weight(found, weight) for weight in weights]
    return tuple(map(Answer, texts, shares, _votes(shares)))


def _votes(shares: Sequence[float]) -> list[int]:
    """How many of ten people gave each answer, where the weights are such shares; else one each."""
    tenths = [share * VOTES for share in shares]
    counts = [round(tenth) for tenth in tenths]
    of_ten = sum(counts) == VOTES and all(map(math.isclose, tenths, counts))
    return counts if of_ten else [1] * len(shares)


def _weight(found: _Fields, value: Any) -> float:
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 < weight < math.inf:
        found.row.refuse("weights", f"{_short(value)} is no weight; give a number above 0")
    return weight


def _check_task(example: Example, found: _Fields, task: str | None) -> None:
    for name in TASK_FIELDS[task] if task else ():
        present = getattr(example, name) or (name == "captions" and example.captions_zh)
        if not present:
            wanted = " or ".join(repr(column) for column in found.candidates(name))
            there = ", ".join(sorted(found.row.values)) or "none"
            found.row.refuse(
                name,
                f"missing or empty, and the task {task!r} needs it; fill column {wanted}, or name its column "
                f"(the row has {there})",
            )


def _listed(value: Any) -> list[Any]:
    """A list as it is; of a single value, or of JSON in a CSV cell, a list."""
    if isinstance(value, str) and value.startswith("["):
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            return [value]
        return parsed if isinstance(parsed, list) else [value]
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
