"""ModelScope's mPLUG folder, as it comes from the hub.

`config.yaml`, the BERT json it names (`config_bert.json`), `vocab.txt`, `pytorch_model.bin`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import Tensor

from mplug.checkpoints.files import read_bert_json, read_tensors, read_yaml
from mplug.checkpoints.reference import (
    DEFAULTS,
    ReferenceFolder,
    VisionLibrary,
    build,
)
from mplug.encoders import Encoders
from mplug.errors import CheckpointError

SETTINGS_FILE = "config.yaml"
WEIGHTS_FILE = "pytorch_model.bin"
VOCAB_FILE = "vocab.txt"

M = TypeVar("M", bound=Encoders)


def load(folder: Path, kind: type[M], *, vision_library: VisionLibrary = "timm") -> M:
    """Read a ModelScope folder, in float32 on the CPU, in evaluation mode.

    Args:
        folder: holds the four files.
        kind: `RetrievalModel`, or `Encoders` for the folders of other tasks.
        vision_library: whose vision tower to use; both give the same tokens within 1e-5.

    Raises:
        CheckpointError: a file is missing or broken, or the tensors do not fit the settings.
    """
    settings = read_yaml(folder / SETTINGS_FILE)
    bert = read_bert_json(folder / str(settings.get("bert_config", DEFAULTS["bert_config"])))
    if not (folder / VOCAB_FILE).is_file():
        raise CheckpointError(f"{VOCAB_FILE} is missing in {folder}; it holds the tokenizer's pieces")
    tensors = {_unprefixed(key): tensor for key, tensor in read_tensors(folder / WEIGHTS_FILE).items()}
    parts = ReferenceFolder(
        where=folder, settings=settings, bert=bert, vocab=folder / VOCAB_FILE, tensors=_as_floats(tensors)
    )
    return build(parts, kind, vision_library=vision_library)


def _unprefixed(key: str) -> str:
    # The reference removes the piece wherever it stands (MPlugForAllTasks.from_pretrained).
    return key.replace("model.", "")


def _as_floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
