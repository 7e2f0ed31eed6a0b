"""Text models from ModelScope's folders, whatever their family; `mplug.load` is the door."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mplug import gpt3, palm, plug, structbert
from mplug.checkpoints.files import read_json_if_there
from mplug.checkpoints.labels import section
from mplug.checkpoints.report import MismatchError
from mplug.errors import CheckpointError, MplugError
from mplug.structbert import EntailmentClassifier
from mplug.tasks import TaskSize, model_size
from mplug.text_classifier import (
    MaskFiller,
    QuestionAnswerer,
    TextClassifier,
    TokenClassifier,
    ZeroShotClassifier,
)
from mplug.text_generator import TextGenerator
from mplug.text_tasks import TEXT_TASKS

logger = logging.getLogger(__name__)

# Any: whatever a generator's state is.
TextModel = (
    TextGenerator[Any] | TextClassifier | ZeroShotClassifier | TokenClassifier | MaskFiller | QuestionAnswerer
)

CONFIGURATION_FILE = "configuration.json"
CONFIG_FILE = "config.json"


class Loader(Protocol):
    """A family's way to read a folder for a task."""

    # Any: a `TextModel` that is a module, or asks one.
    def __call__(
        self, folder: Path, *, device: torch.device | str, dtype: torch.dtype, shapes_only: bool
    ) -> Any:
        """Read a folder; where only shapes are wanted, without its numbers."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture."""

    name: str
    types: tuple[str, ...]
    """What the folders' files call it: `model.type` of `configuration.json`, or `model_type` of `config.json`."""
    loaders: Mapping[str, Loader]
    """By task."""


def _structbert(*tasks: str) -> dict[str, Loader]:
    return {task: partial(structbert.load_task, task=task) for task in tasks}


FAMILIES = (
    Family("GPT-3", ("gpt3",), {"text-generation": gpt3.load}),
    Family("PALM", ("palm-v2", "palm"), {"text-generation": palm.load}),
    Family(
        "PLUG",
        ("plug", "plugNLG", "plugNLU"),
        {"text-generation": plug.load, "text-classification": plug.load_classifier},
    ),
    Family(
        "StructBERT",
        ("structbert",),
        _structbert(
            "text-classification",
            "zero-shot-classification",
            "token-classification",
            "fill-mask",
            "faq-question-answering",
        ),
    ),
    Family("plug_mental", ("plug-mental", "plug_mental"), _structbert("text-classification")),
)


def stated_type(folder: Path) -> str:
    """What a folder's files call its model's family; empty where they do not.

    Raises:
        CheckpointError: a file is no JSON.
    """
    configuration = read_json_if_there(folder / CONFIGURATION_FILE) or {}
    config = read_json_if_there(folder / CONFIG_FILE) or {}
    return str(section(configuration, "model").get("type") or config.get("model_type") or "")


def text_family(folder: Path) -> Family | None:
    """The family of a text model's folder; None: its files name none that is here, or cannot be read."""
    try:
        stated = stated_type(folder)
    except CheckpointError:
        return None  # who reads the folder as another model's says what is wrong with it
    return _find_family(stated)


def own_task(folder: Path) -> str:
    """The task that a text model's folder was made for, by our name.

    Raises:
        CheckpointError: no text model, or the folder does not say.
    """
    family = _need_family(folder)
    stated = str((read_json_if_there(folder / CONFIGURATION_FILE) or {}).get("task", ""))
    task = next(iter(family.loaders)) if len(family.loaders) == 1 else TEXT_TASKS.get(stated, "")
    if task not in family.loaders:
        raise CheckpointError(
            f"{folder}: {CONFIGURATION_FILE} gives the task {stated!r}; name one of {', '.join(family.loaders)}"
        )
    return task


def load_text(folder: Path, task: str, *, device: torch.device, dtype: torch.dtype) -> TextModel:
    """Read a folder for a task.

    Args:
        folder: ModelScope's, or one with int8 rows (`mplug.checkpoints.safe_files`).
        task: one of the values of `TEXT_TASKS`.
        device: where the weights go.
        dtype: what they become.

    Raises:
        CheckpointError: no text model, one that cannot do the task, or not whole.
        MplugError: zero-shot classification of a model that is none of entailment, or a tokenizer that needs what is
            not installed.
    """
    loader = _loader(_need_family(folder), task, folder)
    model: Any = loader(folder, device=device, dtype=dtype, shapes_only=False)
    logger.info("loaded %s for %s: %s", model.name, task, module_of(model).report)
    found: TextModel = model
    return found


def survey_text(folder: Path, family: Family) -> dict[str, TaskSize | str]:
    """Say of each of a family's tasks what the folder's model for it weighs, or why there is none.

    Raises:
        CheckpointError: nothing loadable there.
    """
    found: dict[str, TaskSize | str] = {}
    refused: MplugError | None = None
    for task, loader in family.loaders.items():
        try:
            model = loader(folder, device="cpu", dtype=torch.float32, shapes_only=True)
            found[task] = model_size(module_of(model))
        except MismatchError as error:
            refused, found[task] = error, error.report.shortfall()
        except MplugError as error:
            refused, found[task] = error, str(error.__cause__ or error)
    if refused is not None and not any(isinstance(each, TaskSize) for each in found.values()):
        raise refused
    return found


# Any: families have no base in common but torch's.
def module_of(model: Any) -> Any:
    """The module that a text model is, or asks."""
    module: nn.Module = model.nli if isinstance(model, EntailmentClassifier) else model
    return module


def _find_family(stated: str) -> Family | None:
    return next((family for family in FAMILIES if stated in family.types), None)


def _need_family(folder: Path) -> Family:
    stated = stated_type(folder)
    family = _find_family(stated)
    if family is not None:
        return family
    known = ", ".join(f"{each.name} ({each.types[0]})" for each in FAMILIES)
    if stated:
        raise CheckpointError(
            f"{folder} says that its model is {stated!r}; families of text models are {known}"
        )
    raise CheckpointError(
        f"{folder} holds no text model: neither {CONFIGURATION_FILE} has a model.type nor {CONFIG_FILE} a model_type. "
        f"Families are {known}; for a model of pictures the tasks are retrieval, rerank, caption, vqa"
    )


def _loader(family: Family, task: str, folder: Path) -> Loader:
    if task not in family.loaders:
        raise CheckpointError(
            f"{folder} is a {family.name}, which cannot do {task}; its tasks are {', '.join(family.loaders)}"
        )
    return family.loaders[task]
