"""What ModelScope's and the raw AliceMind / X-PLUG folders share: from settings and tensors to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from mplug.checkpoints.names import is_unused, reference_names, to_our_shape
from mplug.checkpoints.report import load_strictly
from mplug.config import BackboneOption, ImageEncoderConfig, MplugConfig, TextEncoderConfig
from mplug.encoders import Encoders
from mplug.errors import CheckpointError, ConfigError
from mplug.preprocess import PreprocessConfig
from mplug.text.tokenizer import WordPieceTokenizer

VisionLibrary = Literal["timm", "open_clip"]
M = TypeVar("M", bound=Encoders)

MAX_TEXT_TOKENS = 25  # padding="max_length", max_length=25 of ModelScope's preprocessor


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTower:
    """A CLIP ViT that mPLUG builds on, and what it is called in each library."""

    timm: str
    open_clip: str
    layers: int
    width: int
    patch_size: int


CLIP_TOWERS = {
    "ViT-B-16": ClipTower(
        timm="vit_base_patch16_clip_quickgelu_224",
        open_clip="ViT-B-16-quickgelu",
        layers=12,
        width=768,
        patch_size=16,
    ),
    "ViT-L-14": ClipTower(
        timm="vit_large_patch14_clip_quickgelu_224",
        open_clip="ViT-L-14-quickgelu",
        layers=24,
        width=1024,
        patch_size=14,
    ),
}
HEAD_WIDTH = 64  # OpenAI CLIP: heads = width // 64
# Defaults of ModelScope's MPlugConfig.
DEFAULTS: Mapping[str, Any] = {
    "clip_name": "ViT-L-14",
    "image_res": 504,
    "embed_dim": 256,
    "bert_config": "config_bert.json",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceFolder:
    """The parts of a reference checkpoint, read but not yet understood."""

    where: Path
    settings: Mapping[str, Any]
    """The yaml file."""
    bert: Mapping[str, Any]
    """The BERT json."""
    vocab: Path
    tensors: Mapping[str, Tensor]
    """By reference names, wrappings taken off."""


def build(folder: ReferenceFolder, kind: type[M], *, vision_library: VisionLibrary) -> M:
    """Make a model of a reference checkpoint, in float32 on the CPU, in evaluation mode.

    Args:
        folder: the parts.
        kind: `RetrievalModel`, or `Encoders` for checkpoints of other tasks, which have no contrastive heads.
        vision_library: whose vision tower to use; both give the same tokens within 1e-5.

    Raises:
        CheckpointError: a setting that cannot be, or tensors that do not fit; the message lists them.
    """
    try:
        config = to_config(folder, vision_library)
        tokenizer = WordPieceTokenizer.from_file(folder.vocab, max_length=config.max_text_tokens)
        model = kind(config, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"{folder.where}: {error}") from error
    names = reference_names(config, num_blocks=_tower_sizes(folder)["layers"])
    ours = {
        names[key]: to_our_shape(names[key], tensor)
        for key, tensor in folder.tensors.items()
        if key in names and not _head_without_use(names[key], model)
    }
    if "logit_scale" in ours:
        ours["logit_scale"] = _logit_scale(ours["logit_scale"], folder.where)
    others = [key for key in folder.tensors if names.get(key) not in ours]
    back = {our_name: key for key, our_name in names.items()}
    model.report = load_strictly(
        model,
        ours,
        where=folder.where,
        unused=tuple(key for key in others if is_unused(key) or key in names),
        unknown=tuple(key for key in others if not is_unused(key) and key not in names),
        original_name=lambda key: back.get(key, key),
    )
    return model.eval()


def to_config(folder: ReferenceFolder, vision_library: VisionLibrary) -> MplugConfig:
    """Translate yaml and BERT json.

    Raises:
        CheckpointError: a setting is missing or not one that mPLUG has.
    """
    sizes = _tower_sizes(folder)
    image_size = _integer(folder.settings.get("image_res", DEFAULTS["image_res"]), "image_res", folder)
    text = _text_config(folder)
    bridged = sizes["width"] != text.hidden
    return MplugConfig(
        name=folder.where.resolve().name,
        image_encoder=ImageEncoderConfig(
            backbone=f"{vision_library}:{getattr(_clip_tower(folder), vision_library)}",
            backbone_options=_backbone_options(sizes, image_size, vision_library),
            width=sizes["width"],
            adapter_width=text.hidden if bridged else None,
            adapter_eps=1e-12,  # visn_layer_norm of the reference
        ),
        text_encoder=text,
        embed_dim=_integer(folder.settings.get("embed_dim", DEFAULTS["embed_dim"]), "embed_dim", folder),
        preprocess=PreprocessConfig(image_size=image_size),
        max_text_tokens=min(MAX_TEXT_TOKENS, text.positions),
    )


def _text_config(folder: ReferenceFolder) -> TextEncoderConfig:
    bert = folder.bert
    if bert.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(
            f"{folder.where}: hidden_act is {bert['hidden_act']!r}; mPLUG's text encoder has gelu"
        )

    def size(key: str) -> int:
        if key not in bert:
            raise CheckpointError(
                f"{folder.where}: the BERT json lacks {key}; it must be mPLUG's own config_bert.json"
            )
        return _integer(bert[key], key, folder)

    return TextEncoderConfig(
        vocab_size=size("vocab_size"),
        hidden=size("hidden_size"),
        layers=size("text_encoder_layers"),
        heads=size("num_attention_heads"),
        ffn=size("intermediate_size"),
        positions=size("max_position_embeddings"),
        types=size("type_vocab_size"),
        eps=float(bert.get("layer_norm_eps", 1e-12)),
        pad_id=_integer(bert.get("pad_token_id", 0), "pad_token_id", folder),
        dropout=float(bert.get("hidden_dropout_prob", 0.1)),
    )


def _clip_tower(folder: ReferenceFolder) -> ClipTower:
    name = folder.settings.get("clip_name", DEFAULTS["clip_name"])
    if name not in CLIP_TOWERS:
        raise CheckpointError(f"{folder.where}: clip_name is {name!r}; known are {', '.join(CLIP_TOWERS)}")
    return CLIP_TOWERS[name]


def _tower_sizes(folder: ReferenceFolder) -> dict[str, int]:
    # ModelScope's yaml spells the tower out; the raw one only names it.
    tower = _clip_tower(folder)
    sizes = {
        key: _integer(folder.settings.get(f"clip_vision_{key}", default), f"clip_vision_{key}", folder)
        for key, default in (
            ("layers", tower.layers),
            ("width", tower.width),
            ("patch_size", tower.patch_size),
        )
    }
    stated = _integer(folder.settings.get("vision_width", sizes["width"]), "vision_width", folder)
    if stated != sizes["width"]:
        raise CheckpointError(f"{folder.where}: vision_width is {stated}, the tower is {sizes['width']} wide")
    return sizes


def _backbone_options(
    sizes: Mapping[str, int], image_size: int, vision_library: VisionLibrary
) -> dict[str, BackboneOption]:
    if vision_library == "timm":
        return {
            "img_size": image_size,
            "patch_size": sizes["patch_size"],
            "embed_dim": sizes["width"],
            "depth": sizes["layers"],
            "num_heads": sizes["width"] // HEAD_WIDTH,
        }
    return {
        "image_size": image_size,
        "patch_size": sizes["patch_size"],
        "width": sizes["width"],
        "layers": sizes["layers"],
        "head_width": HEAD_WIDTH,
    }


def _integer(value: object, key: str, folder: ReferenceFolder) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{folder.where}: {key} is {value!r}; it must be a whole number")
    return value


def _logit_scale(temperature: Tensor, where: Path) -> Tensor:
    if float(temperature) <= 0:
        raise CheckpointError(f"{where}: temp is {float(temperature)}; a temperature must be above 0")
    return -torch.log(temperature.to(torch.float32))


def _head_without_use(our_name: str, model: Encoders) -> bool:
    # Encoders alone take no projection and no temperature.
    return not hasattr(model, our_name.split(".")[0])
