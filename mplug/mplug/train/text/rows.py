"""What a text generator learns from: rows of a source and a target, or of a text alone; those of a user, parted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from mplug.errors import MplugError
from mplug.train.config import DataConfig
from mplug.train.readers import Data, open_source
from mplug.train.readers.example import Example
from mplug.train.readers.parts import open_parts, parts_of
from mplug.train.splits import Pictured, Split, plan_splits
from mplug.train.text.config import TextRunConfig

TASK = "write"
"""Of `TASK_FIELDS`."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """One row."""

    source: str
    """What is given, and not learnt; empty: all of the target is learnt, as a text to be continued."""
    target: str
    weight: float = 1.0
    """How often an epoch shows it."""
    origin: str = ""
    """File and line, for error messages."""


@dataclass(frozen=True, slots=True)
class TextRows:
    """Rows of a run; all texts are in memory."""

    train: Sequence[TextRow]
    dev: Sequence[TextRow]


def read_rows(config: TextRunConfig, data: Data) -> TextRows:
    """Reads a user's rows and parts them.

    With `config.dev` that is what checkpoints are chosen by, and all that the data does not call val or test is trained
    on; without it, what is called dev, or val beside a test split; else a part of the training rows. Rows of one text
    are on one side.

    Args:
        config: of the run.
        data: one part or several, with weights; see `mplug.train.readers.parts`. Rows have `text` (or `source`), and
            `target` where there is one.

    Raises:
        MplugError: a row is refused: file, line, field and remedy; or there is nothing to train on or to choose by.
    """
    parts = parts_of(data)
    examples = [list(source) for source in open_parts(parts, TASK)]
    plan = plan_splits(map(_marked, chain.from_iterable(examples)), _kept_apart(config))
    rows: dict[Split, list[TextRow]] = {}
    for part, some in zip(parts, examples, strict=True):
        for example in some:
            rows.setdefault(plan.split(_marked(example)), []).append(_row(example, part.weight))
    if not rows.get(Split.TRAIN):
        found = ", ".join(sorted(rows))
        raise MplugError(f"there are no rows to train on: all are {found}; see the column `split`.")
    if config.dev:
        return TextRows(rows[Split.TRAIN], read_all(config.dev))
    dev = rows.get(Split.DEV) or rows.get(Split.HELD_OUT)
    if not dev:
        raise MplugError(
            "there are no rows to choose the best checkpoint by: name a file of them with --set dev=FILE, give some "
            'rows "split": "dev", or raise held_out_percent.'
        )
    return TextRows(rows[Split.TRAIN], dev)


def read_all(where: str) -> list[TextRow]:
    """Rows of any kind that data may have, whatever their split.

    Raises:
        MplugError: nothing is there, or a row is refused.
    """
    return [_row(example) for example in open_source(where, task=TASK)]


def held_out(text: str, *, test_percent: int = 10, dev_percent: int = 5) -> Split:
    """The split of a text that publishes none, by sha1: the same wherever and whenever it is asked.

    Args:
        text: by which a row is known; equal ones are never on two sides.
        test_percent: share that is reported once (`Split.HELD_OUT`).
        dev_percent: share that settings and checkpoints are chosen by.
    """
    place = int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16) % 100
    if place < test_percent:
        return Split.HELD_OUT
    return Split.DEV if place < test_percent + dev_percent else Split.TRAIN


def _kept_apart(config: TextRunConfig) -> DataConfig:
    percent, count = (0, 0) if config.dev else (config.held_out_percent, config.num_dev_rows)
    return DataConfig(num_dev_images=count, held_out_percent=percent, unseen_styles=())


def _marked(example: Example) -> Pictured:
    """A row as the rule of `splits` wants it: its source stands for the picture."""
    name = hashlib.sha1(example.text.encode(), usedforsecurity=False).hexdigest()
    return Pictured(name, "text", example.split)


def _row(example: Example, weight: float = 1.0) -> TextRow:
    source, target = (example.text, example.target) if example.target else ("", example.text)
    return TextRow(source, target, weight, example.origin)
