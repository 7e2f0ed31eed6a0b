"""The files of a checkpoint folder, read without trusting them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mplug.errors import CheckpointError

WRAPPINGS = ("state_dict", "model", "module", "palm")


def read_tensors(path: Path, *, shapes_only: bool = False, mapped: bool = False) -> dict[str, Tensor]:
    """Read a torch file without running code from it, and take off its wrappings, see `WRAPPINGS`.

    Args:
        path: a file of `torch.save`.
        shapes_only: read names, shapes and types, and leave the numbers on the disk (the meta device).
        mapped: leave the numbers on the disk until they are looked at; all tensors share one mapping of the file, which
            goes with the last of them. Files from before torch 1.6 are read whole.

    Raises:
        CheckpointError: missing, not a torch file, holds other things than tensors, or no tensors at all.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds the weights")
    try:
        place = "meta" if shapes_only else "cpu"
        mapped = mapped and zipfile.is_zipfile(path)
        held: Any = torch.load(path, map_location=place, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be read as weights only ({_first_line(error)}). It is damaged, or holds Python "
            "objects beside tensors: in the place where it was made, save its state dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole torch file: {_first_line(error)}") from error
    for wrapping in WRAPPINGS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapping), Mapping):
            held = held[wrapping]
    entries = held.items() if isinstance(held, Mapping) else ()
    tensors = {str(key): value for key, value in entries if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no state dict; expected tensors by name, maybe under model or module"
        )
    return tensors


# Any: JSON.
def stated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to be written, without a licence where none is stated: the reference's files have no such field."""
    return {name: value for name, value in values.items() if name != "licence" or value}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a yaml file of settings.

    Raises:
        CheckpointError: missing, not yaml, or not a mapping.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds the model's settings")
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not yaml: {_first_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no settings; expected keys and values")
    return values


def read_bert_json(path: Path) -> dict[str, Any]:
    """Read the BERT json that the yaml names.

    Raises:
        CheckpointError: missing, not JSON, or not an object.
    """
    return read_json(path, "the text encoder's sizes")


def read_json(path: Path, holds: str) -> dict[str, Any]:
    """Read a JSON file of settings.

    Args:
        path: the file.
        holds: what it is for, for messages.

    Raises:
        CheckpointError: missing, not JSON, or not an object.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds {holds}")
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {_first_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no settings; expected a JSON object")
    return values


def read_json_if_there(path: Path) -> dict[str, Any] | None:
    """The same of a file that may be missing; None where it is."""
    return read_json(path, "settings") if path.is_file() else None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file of settings, for people to read."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
