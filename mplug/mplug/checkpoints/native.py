"""Our own folder: `config.json`, `model.safetensors`, `vocab.txt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mplug.checkpoints.quantize import quantize, widen
from mplug.checkpoints.report import load_strictly
from mplug.config import MplugConfig
from mplug.encoders import Encoders
from mplug.errors import CheckpointError, ConfigError
from mplug.text.tokenizer import WordPieceTokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
VOCAB_FILE = "vocab.txt"

# Parts of a whole model that one task holds and another does not.
OTHER_PARTS = ("image_proj.", "text_proj.", "logit_scale", "fusion_encoder.", "text_decoder.", "itm_head.")

M = TypeVar("M", bound=Encoders)


def save(model: Encoders, folder: Path, *, storage: Literal["float32", "int8"] = "float32") -> None:
    """Write a model to a folder of our own, making it where needed.

    Args:
        model: what to write, whatever its device.
        folder: existing files of the same names are replaced.
        storage: `float32`, or `int8` rows with float16 scales (see `mplug.checkpoints.quantize`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    if storage == "int8":
        tensors = quantize(tensors)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(model.config.to_dict(), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    model.tokenizer.save(folder / VOCAB_FILE)


def load(folder: Path, kind: type[M]) -> M:
    """Read a folder of our own, in float32 on the CPU, in evaluation mode.

    Args:
        folder: holds the three files.
        kind: `RetrievalModel`, or `Encoders` to leave the heads.

    Raises:
        CheckpointError: a file is missing or broken, or the tensors do not fit the configuration.
    """
    config = read_config(folder / CONFIG_FILE)
    tokenizer = WordPieceTokenizer.from_file(
        folder / VOCAB_FILE, max_length=config.max_text_tokens, lower_case=config.lower_case
    )
    stored = _read_tensors(folder / WEIGHTS_FILE)
    try:
        model = kind(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    tensors = widen(stored)
    unused = tuple(
        key for key in tensors if key.startswith(OTHER_PARTS) and not hasattr(model, key.split(".")[0])
    )
    tensors = {key: tensor for key, tensor in tensors.items() if key not in unused}
    model.report = load_strictly(model, tensors, where=folder, unused=unused)
    return model.eval()


def read_config(path: Path) -> MplugConfig:
    """Read `config.json`.

    Raises:
        CheckpointError: missing, not JSON, or not a configuration.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds the model's shape")
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        return MplugConfig.from_dict(values)
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds the weights")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
