"""The raw AliceMind / X-PLUG layout: a `.pth` of the training scripts, its yaml, the BERT json, `vocab.txt`.

As the scripts do (retrieval_img_mplug.py of X-PLUG/mPLUG), the pieces `fusion.` and `bert.` of names outside
the decoder are dropped, and the table of positional embeddings is resized when the settings ask for another
resolution than the checkpoint was trained at.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.checkpoints.files import read_bert_json, read_tensors, read_yaml
from mplug.checkpoints.names import POSITIONAL_EMBEDDING
from mplug.checkpoints.reference import (
    DEFAULTS,
    ReferenceFolder,
    VisionLibrary,
    build,
    to_config,
)
from mplug.encoders import Encoders
from mplug.errors import CheckpointError

WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin")
SETTINGS_SUFFIXES = (".yaml", ".yml")
VISUAL_CONV = "visual_encoder.visual.conv1.weight"

M = TypeVar("M", bound=Encoders)


def load(folder: Path, kind: type[M], *, vision_library: VisionLibrary = "timm") -> M:
    """Read a raw folder, in float32 on the CPU, in evaluation mode.

    Args:
        folder: holds one weights file, one yaml, the BERT json that the yaml names, and `vocab.txt`.
        kind: `RetrievalModel`, or `Encoders` for checkpoints of other tasks.
        vision_library: whose vision tower to use; both give the same tokens within 1e-5.

    Raises:
        CheckpointError: a file is missing, ambiguous or broken, or the tensors do not fit the settings.
    """
    settings = read_yaml(_only(folder, SETTINGS_SUFFIXES, "settings"))
    named = Path(str(settings.get("bert_config", DEFAULTS["bert_config"])))
    inside = folder / named
    # The scripts name configs/config_bert.json, from their root; people copy the file alone.
    bert = read_bert_json(inside if inside.is_file() else folder / named.name)
    if not (folder / "vocab.txt").is_file():
        raise CheckpointError(
            f"vocab.txt is missing in {folder}; copy that of bert-base-uncased beside the weights"
        )
    held = read_tensors(_only(folder, WEIGHTS_SUFFIXES, "weights"))
    tensors = {_plain(key): t.float() if t.is_floating_point() else t for key, t in held.items()}
    parts = ReferenceFolder(
        where=folder, settings=settings, bert=bert, vocab=folder / "vocab.txt", tensors=tensors
    )
    image_size = to_config(parts, vision_library).preprocess.image_size
    if POSITIONAL_EMBEDDING in tensors and VISUAL_CONV in tensors:
        patch_size = tensors[VISUAL_CONV].shape[-1]
        tensors[POSITIONAL_EMBEDDING] = resize_positions(
            tensors[POSITIONAL_EMBEDDING], image_size // patch_size
        )
    return build(parts, kind, vision_library=vision_library)


def resize_positions(table_ND: Tensor, grid: int) -> Tensor:
    """Resize a table of positional embeddings to another grid, as `resize_pos_embed` of the scripts.

    Args:
        table_ND: (1 + old * old, D), the class token first.
        grid: patches along one side.

    Returns:
        (1 + grid * grid, D): the class token's row as it is, the rest bilinear.
    """
    old = math.isqrt(len(table_ND) - 1)
    if old == grid or old * old != len(table_ND) - 1:
        return table_ND
    cells = table_ND[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(cells, size=(grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([table_ND[:1], resized.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


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
