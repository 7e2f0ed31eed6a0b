"""Captioned pictures from a data folder, and which of them may be trained on.

A *set* is a folder under ``images/`` (``photo``, ``emoji``, ``scene`` …). A set in which records say
``"split": "val"`` keeps its published split, and gives `num_dev_images` of its training pictures for
choosing checkpoints. Every other set holds out a share of its pictures by sha1 of the file name, so
that a drawing held out in one style is held out in all. Pictures of an unseen style are never trained on.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mplug.errors import MplugError
from mplug.train.config import DataConfig


class Split(StrEnum):
    """What a picture may be used for."""

    TRAIN = "train"
    DEV = "dev"
    """Chooses checkpoints and settings."""
    VAL = "val"
    """Reported once."""
    HELD_OUT = "held_out"
    """As val, for sets without a published split."""
    UNSEEN_STYLE = "unseen_style"


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
    records = list(_records(folder / config.captions_file))
    published = {_set_name(r) for r in records if r["split"] == Split.VAL}
    dev = _dev_images(records, published, config.num_dev_images)
    return [
        CaptionedImage(
            path=record["image"],
            set_name=_set_name(record),
            identity=record.get("emoji") or record["image"],
            captions=tuple(record["captions"]),
            captions_zh=tuple(record.get("captions_zh", ())),
            split=_split(record, published, dev, config),
        )
        for record in records
    ]


def _records(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise MplugError(
            f"No {path.name} in {path.parent}: --data names a folder with that file and its images."
        )
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                record.setdefault("split", Split.TRAIN)
                _ = record["image"], record["captions"]
            except (json.JSONDecodeError, KeyError, AttributeError) as error:
                raise MplugError(
                    f"{path.name}, line {number}: {error!r}; expected image and captions."
                ) from error
            yield record


def _set_name(record: dict[str, str]) -> str:
    parts = record["image"].split("/")
    return parts[1] if len(parts) > 2 else parts[0]


def _sha1(text: str) -> int:
    return int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16)


def _dev_images(records: list[dict[str, str]], published: set[str], count: int) -> set[str]:
    candidates = [r["image"] for r in records if _set_name(r) in published and r["split"] == Split.TRAIN]
    return set(sorted(candidates, key=_sha1)[:count])


def _split(record: dict[str, str], published: set[str], dev: set[str], config: DataConfig) -> Split:
    image = record["image"]
    if _set_name(record) in published:
        if record["split"] == Split.VAL:
            return Split.VAL
        return Split.DEV if image in dev else Split.TRAIN
    if any(style in Path(image).parts for style in config.unseen_styles):
        return Split.UNSEEN_STYLE
    held_out = _sha1(Path(image).name) % 100 < config.held_out_percent
    return Split.HELD_OUT if held_out else Split.TRAIN
