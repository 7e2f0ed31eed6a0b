"""ModelScope's mPLUG folder, as it comes from the hub.

`config.yaml`, the BERT json it names (`config_bert.json`), `vocab.txt`, `pytorch_model.bin`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import Tensor

from mplug.checkpoints.files import read_bert_json, read_tensors, read_yaml
from mplug.checkpoints.reference import ReferenceFolder, build
from mplug.checkpoints.settings import DEFAULTS, ReferenceSettings, VisionLibrary
from mplug.errors import CheckpointError
from mplug.task_model import TaskModel

SETTINGS_FILE = "config.yaml"
WEIGHTS_FILE = "pytorch_model.bin"
VOCAB_FILE = "vocab.txt"

M = TypeVar("M", bound=TaskModel)


def load(
    folder: Path, kind: type[M], *, vision_library: VisionLibrary = "timm", shapes_only: bool = False
) -> M:
    """Read a ModelScope folder, in float32 on the CPU, in evaluation mode.

    Args:
        folder: holds the four files.
        kind: the task's model, such as `RetrievalModel` or `VqaModel`.
        vision_library: whose vision tower to use; both give the same tokens within 1e-5.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing or broken, or the tensors do not fit the settings.
    """
    settings = read_settings(folder)
    if not (folder / VOCAB_FILE).is_file():
        raise CheckpointError(f"{VOCAB_FILE} is missing in {folder}; it holds the tokenizer's pieces")
    tensors = {
        _unprefixed(key): tensor
        for key, tensor in read_tensors(folder / WEIGHTS_FILE, shapes_only=shapes_only).items()
    }
    parts = ReferenceFolder(settings=settings, vocab=folder / VOCAB_FILE, tensors=_as_floats(tensors))
    return build(parts, kind, vision_library=vision_library)


def read_settings(folder: Path) -> ReferenceSettings:
    """Read the yaml and the BERT json that it names.

    Raises:
        CheckpointError: one of the two is missing or broken.
    """
    values = read_yaml(folder / SETTINGS_FILE)
    bert = read_bert_json(folder / str(values.get("bert_config", DEFAULTS["bert_config"])))
    return ReferenceSettings(where=folder, yaml=values, bert=bert)


def _unprefixed(key: str) -> str:
    # The reference removes the piece wherever it stands (MPlugForAllTasks.from_pretrained).
    return key.replace("model.", "")


def _as_floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
