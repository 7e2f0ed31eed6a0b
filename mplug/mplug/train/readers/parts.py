"""What a run is given to train on: one place or several, each with a weight."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug.train.readers.opening import folder_of, open_source
from mplug.train.readers.placed import Placed
from mplug.train.readers.source import Source


@dataclass(frozen=True, slots=True)
class DataPart:
    """Rows of one place, and how often they come.

    Raises:
        MplugError: a weight that is not above 0.
    """

    where: str | Path
    """As `open_source` takes it."""
    weight: float = 1.0
    """How often a row of it comes while one of a part of weight 1 comes once."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise MplugError(f"{self.where} has the weight {self.weight}: give a number above 0.")


Data = str | Path | DataPart | Sequence[str | Path | DataPart]
"""What a run is given. A text may end in ``=WEIGHT``; a path is taken as it is."""


def parts_of(data: Data) -> list[DataPart]:
    """All parts of what a run is given.

    Raises:
        MplugError: none, or a weight that is not above 0.
    """
    several = [data] if isinstance(data, str | Path | DataPart) else list(data)
    if not several:
        raise MplugError("There is no data: name a file or folder of rows.")
    return [_part(each) for each in several]


def single_folder(data: Data) -> Path:
    """The one folder that is given.

    Raises:
        MplugError: there are several, or one with a weight.
    """
    parts = parts_of(data)
    if len(parts) > 1 or parts[0].weight != 1.0:
        given = ", ".join(f"{part.where}={part.weight:g}" for part in parts)
        raise MplugError(f"This recipe trains on one folder, without a weight; it was given {given}.")
    return Path(parts[0].where)


def open_parts(parts: Sequence[DataPart], task: str) -> list[Source[Any]]:
    """Opens each. Where there are several, pictures are named from the folder that holds all of them.

    So a picture that two files name is one picture, and what two folders call by one name are two.

    Args:
        parts: of `parts_of`.
        task: as in `open_source`.

    Raises:
        MplugError: as in `open_source`.
    """
    sources = [open_source(part.where, task=task) for part in parts]
    folders = [folder_of(part.where).resolve() for part in parts]
    common = Path(os.path.commonpath(folders))
    return [
        source if folder == common else Placed(source, folder.relative_to(common).as_posix())
        for source, folder in zip(sources, folders, strict=True)
    ]


def _part(given: str | Path | DataPart) -> DataPart:
    if isinstance(given, DataPart):
        return given
    if isinstance(given, str) and not Path(given).exists():
        where, _, text = given.rpartition("=")
        weight = _number(text)
        if where and weight is not None:
            return DataPart(where, weight)
    return DataPart(given)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
