"""What ModelScope's and the raw AliceMind / X-PLUG folders share: from settings and tensors to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mplug.checkpoints.names import TIED, ReferenceNames, to_our_shape
from mplug.checkpoints.report import load_strictly
from mplug.checkpoints.settings import ReferenceSettings, VisionLibrary
from mplug.errors import CheckpointError, ConfigError
from mplug.task_model import TaskModel
from mplug.text.tokenizer import WordPieceTokenizer

M = TypeVar("M", bound=TaskModel)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceFolder:
    """The parts of a reference checkpoint, read but not yet understood."""

    settings: ReferenceSettings
    vocab: Path
    tensors: Mapping[str, Tensor]
    """By reference names, wrappings taken off."""

    @property
    def shapes_only(self) -> bool:
        """Whether the tensors have no numbers."""
        return any(tensor.is_meta for tensor in self.tensors.values())

    @property
    def where(self) -> Path:
        """The folder itself."""
        return self.settings.where


def build(folder: ReferenceFolder, kind: type[M], *, vision_library: VisionLibrary) -> M:
    """Make a model of a reference checkpoint, in float32, in evaluation mode, where its tensors are.

    Args:
        folder: the parts; with tensors on the meta device the model is there too.
        kind: the task's model, such as `RetrievalModel` or `VqaModel`; it takes what it has modules for.
        vision_library: whose vision tower to use; both give the same tokens within 1e-5.

    Raises:
        CheckpointError: a setting that cannot be, or tensors that do not fit; the message lists them.
    """
    try:
        config = folder.settings.to_config(vision_library)
        tokenizer = WordPieceTokenizer.from_file(folder.vocab, max_length=config.max_text_tokens)
        with torch.device("meta" if folder.shapes_only else "cpu"):
            model = kind(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder.where}: {error}") from error
    names = ReferenceNames(
        config,
        num_blocks=folder.settings.num_blocks,
        first_fusion_layer=folder.settings.first_fusion_layer,
    )
    return _fill(model, names, folder)


def _fill(model: M, names: ReferenceNames, folder: ReferenceFolder) -> M:
    stored = dict(folder.tensors)
    if hasattr(model, "text_decoder"):
        _fold_second_copies(stored, folder.where)
    ours = {
        names.used[key]: to_our_shape(names.used[key], tensor)
        for key, tensor in stored.items()
        if key in names.used and _has_part(model, names.used[key])
    }
    if "logit_scale" in ours:
        ours["logit_scale"] = _logit_scale(ours["logit_scale"], folder.where)
    others = [key for key in folder.tensors if names.used.get(key) not in ours]
    back = {our_name: key for key, our_name in names.used.items()}
    explained = {key for key in others if key in names.used or names.why_unused(key) is not None}
    model.report = load_strictly(
        model,
        ours,
        where=folder.where,
        unused=tuple(explained),
        unknown=tuple(key for key in others if key not in explained),
        original_name=lambda key: back.get(key, key),
    )
    return model.eval()


def _fold_second_copies(stored: dict[str, Tensor], where: Path) -> None:
    # Tied tensors are stored once or twice; the first name is the one that we read.
    for first, second in TIED:
        if second not in stored:
            continue
        if first not in stored:
            stored[first] = stored[second]
        elif not stored[first].is_meta and not torch.equal(stored[first], stored[second]):
            raise CheckpointError(
                f"{where}: {first} and {second} differ, and are one tensor in mPLUG; remove the one that was "
                "not trained from the state dict"
            )


def _logit_scale(temperature: Tensor, where: Path) -> Tensor:
    if not temperature.is_meta and float(temperature) <= 0:
        raise CheckpointError(f"{where}: temp is {float(temperature)}; a temperature must be above 0")
    return -torch.log(temperature.to(torch.float32))


def _has_part(model: TaskModel, our_name: str) -> bool:
    # Captioning takes no text encoder, encoders alone take no projection and no temperature.
    return hasattr(model, our_name.split(".")[0])
