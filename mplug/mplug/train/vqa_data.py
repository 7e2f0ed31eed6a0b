"""Questions about the pictures of a data folder, with people's answers, in the splits of its captions.

A picture is in one split, whatever is said or asked about it: what is held out for captions is held out here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug.train.config import DataConfig
from mplug.train.data import Split, read_records, split_images

QUESTIONS_FILE = "vqa.jsonl"
"""JSON lines inside the data folder: ``image``, ``question``, ``answers``, ``type``, ``lang``, ``split``."""


@dataclass(frozen=True, slots=True)
class VqaRow:
    """One question about one picture."""

    path: str
    """Of the picture, relative to the data folder."""
    question: str
    answers: tuple[str, ...]
    """People's; one where the answer is known."""
    type: str
    """What is asked for, such as ``count``; empty where it is not said."""
    language: str
    split: Split


def read_questions(folder: Path, config: DataConfig) -> list[VqaRow]:
    """All questions of a data folder with their splits, in the order of the file.

    Raises:
        MplugError: The file is not there, a line is not JSON, lacks a field or has no answer: which line, and what.
    """
    records = list(read_records(folder / QUESTIONS_FILE, ("image", "question", "answers")))
    captions = folder / config.captions_file
    captioned = list(read_records(captions, ("image",))) if captions.is_file() else []
    known = {record["image"] for record in captioned}
    # What the captions say of a picture counts, also where a question says otherwise or nothing.
    splits = split_images([*captioned, *(each for each in records if each["image"] not in known)], config)
    return [_row(record, number, splits) for number, record in enumerate(records, start=1)]


def _row(record: Mapping[str, Any], number: int, splits: Mapping[str, Split]) -> VqaRow:
    answers = record["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(each, str) for each in answers):
        raise MplugError(
            f"{QUESTIONS_FILE}, line {number}: answers is {answers!r}; a list of texts is expected."
        )
    return VqaRow(
        path=record["image"],
        question=record["question"],
        answers=tuple(answers),
        type=record.get("type", ""),
        language=record.get("lang", "en"),
        split=splits[record["image"]],
    )
