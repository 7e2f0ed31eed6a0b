"""Weights as a safetensors file: whole, or as int8 rows (`quantize`), which is how the models of this package ship."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mplug.checkpoints.quantize import SCALE_SUFFIX, quantize, widen
from mplug.errors import CheckpointError, MplugError

WEIGHTS_FILE = "model.safetensors"

Storage = Literal["modelscope", "int8"]
"""How a text model is written: in the files that the hub has, in the model's own type; or in `WEIGHTS_FILE`, the same
names, as int8 rows with float16 scales."""


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, int8: bool) -> None:
    """Write tensors, on the CPU and contiguous; one that is there under two names is stored under the first.

    Args:
        tensors: by name.
        path: replaced where it is.
        int8: as rows with scales; otherwise as they are.
    """
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    stored = {name: tensors[name] for name in first.values()}
    save_file(quantize(stored) if int8 else stored, path, metadata={"format": "pt"})


def read_stored(
    path: Path, names: Sequence[str] | None = None, *, shapes_only: bool = False
) -> dict[str, Tensor]:
    """Read tensors; int8 rows come back as float32, without their scales.

    Args:
        path: a file of `write_tensors`.
        names: which; None = all.
        shapes_only: read names, shapes and types, and leave the numbers on the disk (the meta device).

    Raises:
        CheckpointError: missing or broken, or int8 rows without a scale for each.
    """
    with _opened(path) as file:
        held = set(file.keys())
        wanted = held if names is None else {each for name in names for each in (name, name + SCALE_SUFFIX)}
        read = _shape if shapes_only else _tensor
        found = {key: read(file, key) for key in sorted(wanted & held)}
    _check_scales(found, path)
    return widen(found)


def own_file(folder: Path, theirs: str) -> Path | None:
    """`WEIGHTS_FILE`, where a text model's weights are there and not in the hub's files.

    Args:
        folder: the checkpoint.
        theirs: pattern of the hub's files in it.

    Raises:
        CheckpointError: both are there.
    """
    own, others = folder / WEIGHTS_FILE, sorted(folder.glob(theirs))
    if not own.is_file():
        return None
    if others:
        raise CheckpointError(
            f"{folder} holds {WEIGHTS_FILE} and {others[0].relative_to(folder)}, and either may be the weights; remove "
            "one of the two"
        )
    return own


def check_place(folder: Path, storage: Storage, theirs: str) -> None:
    """Refuse to write a text model's weights beside others, as nobody could tell which are to be read.

    Args:
        folder: where they are to be.
        storage: what they are to be.
        theirs: pattern of the hub's files there.

    Raises:
        MplugError: an unknown storage, or the folder holds weights of the other.
    """
    if storage not in get_args(Storage):
        raise MplugError(f"storage is {storage!r}; known are {', '.join(get_args(Storage))}")
    others = sorted(folder.glob(theirs if storage == "int8" else WEIGHTS_FILE))
    if others:
        raise MplugError(
            f"{folder} holds {others[0].relative_to(folder)}, and could not be read with weights of the storage "
            f"{storage!r} beside it; take another folder, or remove it"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds the weights")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _tensor(file: Any, key: str) -> Tensor:
    tensor: Tensor = file.get_tensor(key)
    return tensor


def _shape(file: Any, key: str) -> Tensor:
    stored = file.get_slice(key)
    kind = torch.int8 if stored.get_dtype() == "I8" else torch.float32
    return torch.empty(stored.get_shape(), dtype=kind, device="meta")


def _check_scales(found: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in found.items():
        if tensor.dtype != torch.int8:
            continue
        scale = found.get(key + SCALE_SUFFIX)
        if scale is None or tuple(scale.shape) != tuple(tensor.shape[:1]):
            there = "missing" if scale is None else f"of the shape {tuple(scale.shape)}"
            raise CheckpointError(
                f"{path}: {key} has int8 rows, and {key}{SCALE_SUFFIX}, a number for each row, is {there}; write "
                "the file again"
            )
