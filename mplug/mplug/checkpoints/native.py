"""Our own folder: `config.json`, `model.safetensors`, `vocab.txt`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from mplug.checkpoints import safe_files
from mplug.checkpoints.report import load_strictly
from mplug.checkpoints.safe_files import read_stored, write_tensors
from mplug.config import MplugConfig
from mplug.errors import CheckpointError, ConfigError
from mplug.task_model import TaskModel
from mplug.text.tokenizer import WordPieceTokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = safe_files.WEIGHTS_FILE
VOCAB_FILE = "vocab.txt"

WORDS = "text_encoder.embeddings.word.weight"
DECODER_WORDS = "text_decoder.embeddings.word.weight"

# Parts of a whole model that one task holds and another does not.
OTHER_PARTS = (
    "text_encoder.",
    "image_proj.",
    "text_proj.",
    "logit_scale",
    "fusion_encoder.",
    "text_decoder.",
    "itm_head.",
)

M = TypeVar("M", bound=TaskModel)


def save(model: TaskModel, folder: Path, *, storage: Literal["float32", "int8"] = "float32") -> None:
    """Write a model to a folder of our own, making it where needed: the modules that the model holds.

    Args:
        model: what to write, whatever its device.
        folder: existing files of the same names are replaced.
        storage: `float32`, or `int8` rows with float16 scales (see `mplug.checkpoints.quantize`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    tensors = _share_words(tensors, model)
    write_tensors(tensors, folder / WEIGHTS_FILE, int8=storage == "int8")
    config = dataclasses.replace(
        model.config,
        fusion_encoder=model.config.fusion_encoder if hasattr(model, "fusion_encoder") else None,
        text_decoder=model.config.text_decoder if hasattr(model, "text_decoder") else None,
    )
    text = json.dumps(config.to_dict(), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    model.tokenizer.save(folder / VOCAB_FILE)


def load(folder: Path, kind: type[M], *, shapes_only: bool = False) -> M:
    """Read a folder of our own, in float32 on the CPU, in evaluation mode.

    Args:
        folder: holds the three files.
        kind: the task's model, such as `RetrievalModel` or `VqaModel`; `Encoders` to leave the heads.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing or broken, or the tensors do not fit the configuration.
    """
    config = read_config(folder / CONFIG_FILE)
    tokenizer = WordPieceTokenizer.from_file(
        folder / VOCAB_FILE, max_length=config.max_text_tokens, lower_case=config.lower_case
    )
    stored = read_stored(folder / WEIGHTS_FILE, shapes_only=shapes_only)
    try:
        with torch.device("meta" if shapes_only else "cpu"):
            model = kind(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    tensors = _unshare_words(stored, model)
    unused = tuple(
        key for key in tensors if key.startswith(OTHER_PARTS) and not hasattr(model, key.split(".")[0])
    )
    tensors = {key: tensor for key, tensor in tensors.items() if key not in unused}
    model.report = load_strictly(model, tensors, where=folder, unused=unused)
    return model.eval()


def _share_words(tensors: dict[str, torch.Tensor], model: TaskModel) -> dict[str, torch.Tensor]:
    """One table for both where the configuration says so, under the text encoder's name even without one."""
    if not _shares_words(model):
        return tensors
    words = tensors.pop(DECODER_WORDS)
    return {WORDS: words, **tensors}


def _unshare_words(tensors: dict[str, torch.Tensor], model: TaskModel) -> dict[str, torch.Tensor]:
    if not _shares_words(model) or WORDS not in tensors:
        return tensors
    words = tensors[WORDS] if hasattr(model, "text_encoder") else tensors.pop(WORDS)
    return {**tensors, DECODER_WORDS: words}


def _shares_words(model: TaskModel) -> bool:
    decoder = model.config.text_decoder
    return decoder is not None and decoder.shared_words and hasattr(model, "text_decoder")


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
