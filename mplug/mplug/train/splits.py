"""Which pictures may be trained on: one rule for every kind of data.

A *set* (``photo``, ``emoji``, ``scene`` …) in which rows publish a held-out split keeps it: ``test`` is reported once,
and so is ``val`` where there is no ``test``; beside one it chooses checkpoints. A set that publishes no ``dev`` gives
some of its training pictures for that. Every other set holds out a share of its pictures by sha1 of the file name, so
that a drawing held out in one style is held out in all. Pictures of an unseen style are never trained on.
"""

import bisect
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import NamedTuple

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


_VALIDATION = ("val", "valid", "validation")


class Pictured(NamedTuple):
    """What the rule looks at."""

    image: str
    """Path of the picture relative to its data."""
    set_name: str
    published: str
    """The split that the data names; empty or unknown: none."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """The rule, with what had to be counted: equal for all rows of one picture, in whatever file they stand."""

    config: DataConfig
    published: Mapping[str, Mapping[str, Split]]
    """By set, what its published names mean; only sets that publish a held-out split."""
    last_dev: int
    """The highest sha1 among the dev pictures that training pictures were made into; -1: none."""
    gives_dev: frozenset[str]
    """Sets whose training pictures those are."""

    def split(self, picture: Pictured) -> Split:
        """What a picture may be used for."""
        if picture.set_name in self.published:
            split = self.published[picture.set_name].get(picture.published, Split.TRAIN)
            becomes_dev = picture.set_name in self.gives_dev and _sha1(picture.image) <= self.last_dev
            return Split.DEV if split == Split.TRAIN and becomes_dev else split
        path = PurePosixPath(picture.image)
        if any(style in path.parts for style in self.config.unseen_styles):
            return Split.UNSEEN_STYLE
        held_out = _sha1(path.name) % 100 < self.config.held_out_percent
        return Split.HELD_OUT if held_out else Split.TRAIN


def plan_splits(pictures: Iterable[Pictured], config: DataConfig) -> SplitPlan:
    """Counts what the rule needs, in one pass that keeps `num_dev_images` numbers for each set.

    Args:
        pictures: every row of all files that show the same pictures, so that a picture has one split in all.
        config: how much is kept apart.
    """
    names: dict[str, set[str]] = {}
    smallest: dict[str, _Smallest] = {}
    for picture in pictures:
        seen = names.setdefault(picture.set_name, set())
        if picture.published in ("test", "dev", *_VALIDATION):
            seen.add(picture.published)
        else:
            smallest.setdefault(picture.set_name, _Smallest(config.num_dev_images)).add(_sha1(picture.image))
    published = {name: _meanings(seen) for name, seen in names.items() if seen}
    gives = frozenset(name for name, means in published.items() if Split.DEV not in means.values())
    candidates = sorted(value for name in gives & smallest.keys() for value in smallest[name].values)
    dev = candidates[: config.num_dev_images]
    return SplitPlan(config, published, dev[-1] if dev else -1, gives)


def set_of(image: str) -> str:
    """The set of a picture by its path: the folder under ``images/``, or the only folder; empty where there is none."""
    parts = PurePosixPath(image).parts
    return parts[1] if len(parts) > 2 else parts[0] if len(parts) == 2 else ""


def _meanings(names: set[str]) -> dict[str, Split]:
    validation = Split.DEV if "test" in names else Split.VAL
    meanings = dict.fromkeys(_VALIDATION, validation) | {"test": Split.VAL, "dev": Split.DEV}
    return {name: meanings[name] for name in names}


class _Smallest:
    """The smallest distinct numbers seen."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.values: list[int] = []

    def add(self, value: int) -> None:
        place = bisect.bisect_left(self.values, value)
        if self.values[place : place + 1] != [value]:
            self.values.insert(place, value)
            del self.values[self._count :]


def _sha1(text: str) -> int:
    return int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16)
