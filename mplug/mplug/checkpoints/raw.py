"""The raw AliceMind / X-PLUG layout: a `.pth` of the training scripts, its yaml, the BERT json, `vocab.txt`.

As the scripts do (retrieval_img_mplug.py of X-PLUG/mPLUG), the pieces `fusion.` and `bert.` of names outside
the decoder are dropped, and the table of positional embeddings is resized when the settings ask for another
resolution than the checkpoint was trained at.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

from mplug.checkpoints.files import read_bert_json, read_tensors, read_yaml
from mplug.checkpoints.names import POSITIONAL_EMBEDDING
from mplug.checkpoints.reference import ReferenceFolder, build
from mplug.checkpoints.resolution import resize_positions
from mplug.checkpoints.settings import DEFAULTS, ReferenceSettings, VisionLibrary
from mplug.errors import CheckpointError
from mplug.task_model import TaskModel

WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin")
SETTINGS_SUFFIXES = (".yaml", ".yml")
VISUAL_CONV = "visual_encoder.visual.conv1.weight"

M = TypeVar("M", bound=TaskModel)


def load(
    folder: Path, kind: type[M], *, vision_library: VisionLibrary = "timm", shapes_only: bool = False
) -> M:
    """Read a raw folder, in float32 on the CPU, in evaluation mode.

    Args:
        folder: holds one weights file, one yaml, the BERT json that the yaml names, and `vocab.txt`.
        kind: the task's model, such as `RetrievalModel` or `VqaModel`.
        vision_library: whose vision tower to use; both give the same tokens within 1e-5.
        shapes_only: make the model on the meta device, to see whether everything is there.

    Raises:
        CheckpointError: a file is missing, ambiguous or broken, or the tensors do not fit the settings.
    """
    settings = read_settings(folder)
    if not (folder / "vocab.txt").is_file():
        raise CheckpointError(
            f"vocab.txt is missing in {folder}; copy that of bert-base-uncased beside the weights"
        )
    held = read_tensors(_only(folder, WEIGHTS_SUFFIXES, "weights"), shapes_only=shapes_only)
    tensors = {_plain(key): t.float() if t.is_floating_point() else t for key, t in held.items()}
    if POSITIONAL_EMBEDDING in tensors and VISUAL_CONV in tensors:
        grid = settings.image_size // tensors[VISUAL_CONV].shape[-1]
        # A table that is no square grid is refused later, with its shape.
        with contextlib.suppress(ValueError):
            tensors[POSITIONAL_EMBEDDING] = resize_positions(tensors[POSITIONAL_EMBEDDING], grid)
    parts = ReferenceFolder(settings=settings, vocab=folder / "vocab.txt", tensors=tensors)
    return build(parts, kind, vision_library=vision_library)


def read_settings(folder: Path) -> ReferenceSettings:
    """Read the one yaml and the BERT json that it names.

    Raises:
        CheckpointError: one of the two is missing, ambiguous or broken.
    """
    values = read_yaml(_only(folder, SETTINGS_SUFFIXES, "settings"))
    named = Path(str(values.get("bert_config", DEFAULTS["bert_config"])))
    inside = folder / named
    # The scripts name configs/config_bert.json, from their root; people copy the file alone.
    bert = read_bert_json(inside if inside.is_file() else folder / named.name)
    return ReferenceSettings(where=folder, yaml=values, bert=bert)


def _plain(key: str) -> str:
    if "decode" in key:
        return key
    return key.replace("fusion.", "").replace("bert.", "")


def _only(folder: Path, suffixes: tuple[str, ...], what: str) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    if len(found) == 1:
        return found[0]
    named = ", ".join(path.name for path in found) or "none"
    raise CheckpointError(f"{folder} must hold one {what} file ({', '.join(suffixes)}); found {named}")
