"""A user's rows, parted into what is trained on and what checkpoints are chosen by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from mplug.errors import MplugError
from mplug.train.config import DataConfig
from mplug.train.experiments.recipes import MplugRunConfig
from mplug.train.readers import Data, open_source
from mplug.train.readers.example import Example
from mplug.train.readers.parts import open_parts, parts_of
from mplug.train.readers.source import Source
from mplug.train.splits import Pictured, Split, SplitPlan, plan_splits


class Place(NamedTuple):
    """Where a row is to be read."""

    source: Source[Any]
    reference: Any


class Weighted(NamedTuple):
    """Rows to train on, and how often they come."""

    source: Source[Any]
    weight: float


@dataclass(frozen=True, slots=True)
class UserData:
    """Rows of one task."""

    train: Sequence[Weighted]
    dev: Sequence[Source[Any]]

    def train_rows(self) -> Iterator[Example]:
        """Each row to train on, once."""
        return chain.from_iterable(part.source for part in self.train)

    def dev_rows(self) -> Iterator[tuple[Place, Example]]:
        """The rows that checkpoints are chosen by."""
        for source in self.dev:
            for reference, example in zip(source.references(), source, strict=True):
                yield Place(source, reference), example


def open_data(config: MplugRunConfig, data: Data, task: str) -> UserData:
    """Opens what a run is given and parts it; every row is read and checked once before the first step.

    With `config.dev` that is what checkpoints are chosen by, and all that the data does not call val or test is trained
    on. Without it they are chosen by the rows that are called dev, or val beside a test split; where a published split
    has none, by `num_dev_images` of its training pictures; where nothing is published, by a share of the pictures.
    Several parts are parted as if they were one.

    Args:
        config: of the run.
        data: one part or several, with weights; see `mplug.train.readers.parts`.
        task: a key of `TASK_FIELDS`.

    Raises:
        MplugError: a row is refused: file, line, field and remedy; or there is nothing to train on or to choose
            checkpoints by.
    """
    parts = parts_of(data)
    sources = open_parts(parts, task)
    plan = plan_splits(map(_pictured, chain.from_iterable(sources)), _kept_apart(config))
    held = [{_split(plan, example) for example in source} for source in sources]
    train = [
        Weighted(_of_split(source, plan, Split.TRAIN), part.weight)
        for part, source, splits in zip(parts, sources, held, strict=True)
        if Split.TRAIN in splits
    ]
    if not train:
        found = ", ".join(sorted(set().union(*held)))
        raise MplugError(f"there are no rows to train on: all are {found}; see the column `split`.")
    dev = [open_source(config.dev, task=task)] if config.dev else _dev(sources, plan, held)
    return UserData(train, dev)


def texts_of(example: Example) -> tuple[str, ...]:
    """The captions of a row: the English ones, or the Chinese ones where it has no others."""
    return example.captions or example.captions_zh


def captions_by_picture(rows: Iterable[Example]) -> dict[str, list[str]]:
    """All captions of each picture by its name: a picture may have a row for every caption."""
    texts: dict[str, list[str]] = {}
    for example in rows:
        texts.setdefault(example.image_name, []).extend(texts_of(example))
    return texts


def dev_pictures(data: UserData) -> tuple[list[Place], dict[str, list[str]]]:
    """The pictures that checkpoints are chosen by: a row of each, and its captions by its name, in one order."""
    places: dict[str, Place] = {}
    for place, example in data.dev_rows():
        places.setdefault(example.image_name, place)
    return list(places.values()), captions_by_picture(example for _, example in data.dev_rows())


def _kept_apart(config: MplugRunConfig) -> DataConfig:
    if config.dev:
        return DataConfig(num_dev_images=0, held_out_percent=0, unseen_styles=())
    return DataConfig(
        num_dev_images=config.num_dev_images, held_out_percent=config.held_out_percent, unseen_styles=()
    )


def _pictured(example: Example) -> Pictured:
    return Pictured(example.image_name, example.set_name, example.split)


def _split(plan: SplitPlan, example: Example) -> Split:
    return plan.split(_pictured(example))


def _of_split(source: Source[Any], plan: SplitPlan, split: Split) -> Source[Any]:
    return source.where(lambda example: _split(plan, example) == split)


def _dev(sources: Sequence[Source[Any]], plan: SplitPlan, held: Sequence[set[Split]]) -> list[Source[Any]]:
    wanted = next((each for each in (Split.DEV, Split.HELD_OUT) if any(each in some for some in held)), None)
    if wanted is None:
        raise MplugError(
            "there are no pictures to choose the best checkpoint by: name a file of them with --set dev=FILE, give "
            'some rows "split": "dev", or raise held_out_percent.'
        )
    return [
        _of_split(source, plan, wanted)
        for source, splits in zip(sources, held, strict=True)
        if wanted in splits
    ]
