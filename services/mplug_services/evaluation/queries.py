"""Judged queries: what is searched for, and which pictures are right."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NAMED_LINES = 20


class QueryFileError(ValueError):
    """A file of queries cannot be used as it stands; the message names every line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A text or a picture to search for, and how relevant which pictures are."""

    grades: Mapping[str, float]
    """By id, all above 0; what is not named is irrelevant."""
    text: str | None = None
    image: Path | None = None


def read_queries(file: Path) -> list[JudgedQuery]:
    """Reads a file of JSON lines: `{"text": …, "relevant": …}` or `{"image": …, "relevant": …}`.

    "image" is a path relative to the file. "relevant" is a list of ids, all of grade 1, or an object of grades
    by id, of which at least one is above 0. Other fields and empty lines are left aside.

    Raises:
        QueryFileError: The file cannot be read, a line is not of this form, or there is none.
    """
    try:
        # Not splitlines(): JSON texts may hold U+2028 and its like as they are.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise QueryFileError(f"{file} cannot be read as UTF-8 text: {error}") from error
    queries: list[JudgedQuery] = []
    wrong: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                queries.append(_read_line(line, file.parent))
            except ValueError as error:
                wrong.append(f"line {number}: {error}")
    if wrong:
        more = [f"… and {len(wrong) - _NAMED_LINES} more lines"] if len(wrong) > _NAMED_LINES else []
        raise QueryFileError("\n  ".join([f"{file} cannot be used:", *wrong[:_NAMED_LINES], *more]))
    if not queries:
        raise QueryFileError(
            f'{file} holds no query; give lines like {{"text": "a dog", "relevant": ["id"]}}'
        )
    return queries


def _read_line(line: str, folder: Path) -> JudgedQuery:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"an object is wanted, not {line.strip()[:40]}")
    text, image = fields.get("text"), fields.get("image")
    if (text is None) == (image is None):
        raise ValueError('give "text" or "image", one of them')
    grades = _read_grades(fields.get("relevant"))
    if image is None:
        return JudgedQuery(grades, text=_read_text(text))
    return JudgedQuery(grades, image=_read_image(image, folder))


def _read_text(text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f'"text" is no text that could be searched for: {text!r}')
    return text


def _read_image(image: object, folder: Path) -> Path:
    if not isinstance(image, str) or not image:
        raise ValueError(f'"image" is no path: {image!r}')
    path = folder / image
    if not path.is_file():
        raise ValueError(f'"image": {path} is not a file')
    return path


def _read_grades(relevant: object) -> dict[str, float]:
    if isinstance(relevant, list):
        if wrong := [id for id in relevant if not isinstance(id, str) or not id]:
            raise ValueError(f'"relevant" holds what is no id: {wrong[0]!r}')
        relevant = dict.fromkeys(relevant, 1)
    if not isinstance(relevant, dict):
        raise ValueError('"relevant" is neither a list of ids nor an object of grades by id')
    grades = {id: _read_grade(id, grade) for id, grade in relevant.items()}
    if not any(grades.values()):
        raise ValueError('"relevant" names no picture of a grade above 0')
    return {id: grade for id, grade in grades.items() if grade}


def _read_grade(id: str, grade: object) -> float:
    if not id:
        raise ValueError('"relevant" has an empty id')
    # A whole number may be beyond every float.
    if (
        isinstance(grade, bool)
        or not isinstance(grade, (int, float))
        or abs(grade) > 1e9
        or math.isnan(grade)
    ):
        raise ValueError(f'the grade of "{id}" is no number from 0 to 1e9: {str(grade)[:40]}')
    if grade < 0:
        raise ValueError(f'the grade of "{id}" is below 0: {grade}')
    return float(grade)
