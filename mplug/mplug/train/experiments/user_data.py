"""A user's rows, parted into what is trained on and what checkpoints are chosen by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug.train.config import DataConfig
from mplug.train.experiments.recipes import FinetuneConfig
from mplug.train.readers import open_source
from mplug.train.readers.example import Example
from mplug.train.readers.source import Source
from mplug.train.splits import Pictured, Split, SplitPlan, plan_splits


@dataclass(frozen=True, slots=True)
class UserData:
    """Rows of one task."""

    train: Source[Any]
    dev: Source[Any]


def open_data(config: FinetuneConfig, where: Path, task: str) -> UserData:
    """Opens what a run is given and parts it; every row is read and checked once before the first step.

    With `config.dev` that is what checkpoints are chosen by, and all that `where` does not call val or test is trained
    on. Without it they are chosen by the rows that are called dev, or val beside a test split; where a published split
    has none, by `num_dev_images` of its training pictures; where nothing is published, by a share of the pictures.

    Args:
        config: of the run.
        where: as `open_source` takes it.
        task: a key of `TASK_FIELDS`.

    Raises:
        MplugError: a row is refused: file, line, field and remedy; or there is nothing to choose checkpoints by.
    """
    source = open_source(where, task=task)
    plan = plan_splits(map(_pictured, source), _kept_apart(config))
    train = source.where(lambda example: _split(plan, example) == Split.TRAIN)
    return UserData(train, open_source(config.dev, task=task) if config.dev else _dev(source, plan))


def texts_of(example: Example) -> tuple[str, ...]:
    """The captions of a row: the English ones, or the Chinese ones where it has no others."""
    return example.captions or example.captions_zh


def captions_by_picture(source: Source[Any]) -> tuple[list[Any], dict[str, list[str]]]:
    """A row for each picture, and all captions of each by its name: a picture may have a row for every caption."""
    rows: list[Any] = []
    texts: dict[str, list[str]] = {}
    for row, example in _read(source):
        if example.image_name not in texts:
            rows.append(row)
        texts.setdefault(example.image_name, []).extend(texts_of(example))
    return rows, texts


def _read(source: Source[Any]) -> Iterator[tuple[Any, Example]]:
    return zip(source.references(), source, strict=True)


def _kept_apart(config: FinetuneConfig) -> DataConfig:
    if config.dev:
        return DataConfig(num_dev_images=0, held_out_percent=0, unseen_styles=())
    return DataConfig(
        num_dev_images=config.num_dev_images, held_out_percent=config.held_out_percent, unseen_styles=()
    )


def _pictured(example: Example) -> Pictured:
    return Pictured(example.image_name, example.set_name, example.split)


def _split(plan: SplitPlan, example: Example) -> Split:
    return plan.split(_pictured(example))


def _dev(source: Source[Any], plan: SplitPlan) -> Source[Any]:
    splits = {_split(plan, example) for example in source}
    wanted = next((split for split in (Split.DEV, Split.HELD_OUT) if split in splits), None)
    if wanted is None:
        raise MplugError(
            "there are no pictures to choose the best checkpoint by: name a file of them with --set dev=FILE, give "
            'some rows "split": "dev", or raise held_out_percent.'
        )
    return source.where(lambda example: _split(plan, example) == wanted)
