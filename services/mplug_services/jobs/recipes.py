"""What a client may have trained: a recipe, and settings of it that reach no further than its own run.

A setting that is a number or a switch is the client's. A text could name anything on this machine: those that are
known to name nothing are the client's too, those that name a file or folder are names under job roots, the others
are refused, so that what a recipe gains later is refused until it is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mplug.errors import MplugError
from mplug.train import config as training
from mplug.train import recipes
from mplug.train.experiments.recipes import (
    CaptionConfig,
    PretrainConfig,
    RetrievalConfig,
    ScstConfig,
    VqaConfig,
)
from mplug.train.text.config import MiniTextConfig, TextRunConfig
from mplug_services.errors import invalid_argument, permission_denied
from mplug_services.jobs.roots import JobRoots

TEXTS = frozenset(
    {
        *("goal", "method", "name", "precision", "prompt", "sharding"),
        *("crop_sets", "flip_sets", "question_repeats", "recomputed", "set_repeats", "unseen_styles"),
    }
)
"""Settings whose texts are no names of files."""
FILES = frozenset({"bert", "choices_file", "dev", "shape", "vocabulary"})
"""Settings that name a file or folder."""
START = "start"
"""Names a model."""
BACKBONE = "backbone"
_BACKBONE = re.compile(r"(?:timm|open_clip):[A-Za-z0-9_.-]+")
"""Of the libraries' own architectures: with more colons or slashes they would fetch one."""

_ROWS: tuple[tuple[type[training.LoopConfig], str, tuple[str, ...]], ...] = (
    (CaptionConfig, "caption", ("caption",)),
    (ScstConfig, "caption", ("caption",)),
    (VqaConfig, "vqa", ("vqa",)),
    (RetrievalConfig, "retrieval", ("retrieval", "rerank")),
    (PretrainConfig, "pretrain", ("retrieval", "rerank", "caption", "vqa")),
    (MiniTextConfig, "", ("text-generation",)),
    (TextRunConfig, "write", ("text-generation",)),
)
"""By configuration: which task its rows are of (`mplug.train.readers.TASK_FIELDS`), what its model is served for."""
_ALL = ("retrieval", "rerank", "caption", "vqa")

FindModel = Callable[[str], str | None]
"""Where a model of the server is, by its name."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a job's process is to do."""

    recipe: str
    overrides: tuple[str, ...]
    """Settings with paths in the place of names."""
    row_task: str
    """What its rows must have; empty: it reads a folder that only a job root can hold."""
    served_tasks: tuple[str, ...]
    """What its model may be served for."""


def read_order(
    recipe: str, settings: Sequence[str], roots: JobRoots, find_model: FindModel, field: str
) -> Order:
    """Look at what a client asks for. The first call imports torch.

    Args:
        recipe: its name.
        settings: ``name=value`` each.
        roots: where names of files lead.
        find_model: knows the server's models.
        field: path of the task in the request.

    Raises:
        ServiceError: no such recipe or setting, a value that cannot be, or one that names what a client may not.
    """
    try:
        config = recipes.recipe(recipe).config()
    except MplugError as error:
        raise invalid_argument(f"{field}.recipe", str(error), reason="UNKNOWN_RECIPE") from error
    overrides = []
    for number, setting in enumerate(settings):
        place = f"{field}.settings[{number}]"
        config = _override(config, setting, place)
        overrides.append(_checked(config, setting, roots, find_model, place))
    if getattr(config, START, None) == "" and not isinstance(config, PretrainConfig):
        raise invalid_argument(
            f"{field}.settings", "name the model to start from: start=NAME", reason="NO_START"
        )
    row_task, served = _tasks(config)
    return Order(recipe, tuple(overrides), row_task, served)


def _override(config: Any, setting: str, place: str) -> Any:
    try:
        return training.override(config, [setting])
    except MplugError as error:
        raise invalid_argument(
            place, str(error).removeprefix("--set ").strip(), reason="BAD_SETTING"
        ) from error


def _checked(config: Any, setting: str, roots: JobRoots, find_model: FindModel, place: str) -> str:
    """The setting as the process is given it."""
    path, _, _ = setting.partition("=")
    names = path.strip().split(".")
    value = config
    for name in names:
        value = getattr(value, name)
    if not _holds_text(value) or (names[-1] in TEXTS and not isinstance(value, dict)):
        return setting
    if isinstance(value, str) and len(names) == 1:
        if value == "":
            return setting
        if names[0] == START:
            return f"{START}={find_model(value) or roots.resolve(value, place)}"
        if names[0] in FILES:
            return f"{names[0]}={roots.resolve(value, place)}"
        if names[0] == BACKBONE and _BACKBONE.fullmatch(value):
            return setting
    message = f"{path.strip()!r} may name things on the server; it is not a client's to set"
    raise permission_denied(place, message, reason="SETTING_NOT_ALLOWED")


def _holds_text(value: object) -> bool:
    """Whether there is anything in a value that is no number or switch."""
    if isinstance(value, tuple | list):
        return any(map(_holds_text, value))
    return not isinstance(value, bool | int | float)


def _tasks(config: object) -> tuple[str, tuple[str, ...]]:
    for kind, row_task, served in _ROWS:
        if isinstance(config, kind):
            return row_task, served
    return "", _ALL
