"""Captioned pictures from a data folder, with what each may be used for (`splits.py`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug.train.config import DataConfig
from mplug.train.readers.tables import json_object
from mplug.train.splits import Pictured, plan_splits, set_of
from mplug.train.splits import Split as Split


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One picture and its captions."""

    path: str
    """Relative to the data folder."""
    set_name: str
    identity: str
    """Pictures of one identity show the same thing (one emoji in several styles) and are no negatives."""
    captions: tuple[str, ...]
    captions_zh: tuple[str, ...]
    split: Split


def read_captions(folder: Path, config: DataConfig) -> list[CaptionedImage]:
    """All pictures of a data folder with their splits, in the order of the file.

    Raises:
        MplugError: The file is not there, a line is not JSON or lacks a field: which line, and what.
    """
    records = list(read_records(folder / config.captions_file, ("image", "captions")))
    splits = split_images(records, config)
    return [
        CaptionedImage(
            path=record["image"],
            set_name=set_of(record["image"]),
            identity=record.get("emoji") or record["image"],
            captions=tuple(record["captions"]),
            captions_zh=tuple(record.get("captions_zh", ())),
            split=splits[record["image"]],
        )
        for record in records
    ]


def split_images(records: Sequence[Mapping[str, Any]], config: DataConfig) -> dict[str, Split]:
    """What every picture may be used for, by its path; a picture that comes several times has one split.

    Args:
        records: with ``image`` and the published ``split``.
        config: how much is kept apart.
    """
    pictures = [Pictured(record["image"], set_of(record["image"]), record["split"]) for record in records]
    plan = plan_splits(pictures, config)
    return {picture.image: plan.split(picture) for picture in pictures}


def read_records(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of JSON objects that have these fields; ``split`` is ``train`` where it is not given.

    Raises:
        MplugError: The file is not there, a line is not JSON or lacks a field: which line, and what.
    """
    if not path.is_file():
        raise MplugError(
            f"No {path.name} in {path.parent}: --data names a folder with that file and its images."
        )
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            record = json_object(path, number, line)
            record.setdefault("split", Split.TRAIN)
            for field in fields:
                if field not in record:
                    raise MplugError(f"{path}, line {number}: no {field}; expected {' and '.join(fields)}.")
            yield record
