"""The settings of a reference checkpoint, a yaml and a BERT json, and our configuration made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mplug.config import (
    BackboneOption,
    FusionEncoderConfig,
    GenerationDefaults,
    ImageEncoderConfig,
    MplugConfig,
    TextDecoderConfig,
    TextEncoderConfig,
)
from mplug.errors import CheckpointError
from mplug.preprocess import PreprocessConfig

VisionLibrary = Literal["timm", "open_clip"]

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
    "min_length": 1,
    "max_length": 10,
    "beam_size": 5,
}
FUSION_KEYS = ("num_hidden_layers", "fusion_layers", "stride_layer")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceSettings:
    """What the files beside the weights say.

    Its methods and properties raise `CheckpointError` where a setting is missing or cannot be.
    """

    where: Path
    """The folder, for messages; its last part is the model's name."""
    yaml: Mapping[str, Any]
    bert: Mapping[str, Any]
    """The BERT json."""

    def to_config(self, vision_library: VisionLibrary = "timm") -> MplugConfig:
        """Translate; parts that the BERT json does not describe are None.

        Raises:
            CheckpointError: a setting is missing or not one that mPLUG has.
            ConfigError: the settings contradict each other.
        """
        width, image_size, text = self._tower_size("width"), self.image_size, self._text_encoder()
        return MplugConfig(
            name=self.where.resolve().name,
            image_encoder=ImageEncoderConfig(
                backbone=f"{vision_library}:{getattr(self._clip_tower, vision_library)}",
                backbone_options=self._backbone_options(image_size, vision_library),
                width=width,
                adapter_width=text.hidden if width != text.hidden else None,
                adapter_eps=1e-12,  # visn_layer_norm of the reference
            ),
            text_encoder=text,
            fusion_encoder=self._fusion_encoder(),
            text_decoder=self._text_decoder(),
            generation=self._generation(),
            embed_dim=self._yaml_size("embed_dim"),
            preprocess=PreprocessConfig(image_size=image_size),
            max_text_tokens=min(MAX_TEXT_TOKENS, text.positions),
        )

    @property
    def image_size(self) -> int:
        """Side R of the pictures in pixels."""
        return self._yaml_size("image_res")

    @property
    def num_blocks(self) -> int:
        """Transformer blocks of the vision tower."""
        return self._tower_size("layers")

    @property
    def first_fusion_layer(self) -> int:
        """Number of the first layer of the stored fusion encoder that runs; those before it never do."""
        if not all(key in self.bert for key in FUSION_KEYS):
            return 0
        return max(0, self._bert_size("num_hidden_layers") - self._bert_size("fusion_layers"))

    def _text_encoder(self) -> TextEncoderConfig:
        act = self.bert.get("hidden_act", "gelu")
        if act != "gelu":
            raise CheckpointError(f"{self.where}: hidden_act is {act!r}; mPLUG's text encoder has gelu")
        return TextEncoderConfig(
            vocab_size=self._bert_size("vocab_size"),
            layers=self._bert_size("text_encoder_layers"),
            positions=self._bert_size("max_position_embeddings"),
            types=self._bert_size("type_vocab_size"),
            pad_id=self._bert_size("pad_token_id", 0),
            **self._layer_sizes(),
        )

    def _fusion_encoder(self) -> FusionEncoderConfig | None:
        if not all(key in self.bert for key in FUSION_KEYS):
            return None
        return FusionEncoderConfig(
            layers=self._bert_size("num_hidden_layers") - self.first_fusion_layer,
            stride_layer=self._bert_size("stride_layer"),
            memory_width=self._bert_size("encoder_width", self.bert["hidden_size"]),
            **self._layer_sizes(),
        )

    def _text_decoder(self) -> TextDecoderConfig | None:
        if "text_decode_layers" not in self.bert:
            return None
        return TextDecoderConfig(
            vocab_size=self._bert_size("vocab_size"),
            layers=self._bert_size("text_decode_layers"),
            positions=self._bert_size("max_position_embeddings"),
            types=self._bert_size("type_vocab_size"),
            memory_width=self._bert_size("encoder_width", self.bert["hidden_size"]),
            pad_id=self._bert_size("pad_token_id", 0),
            **self._layer_sizes(),
        )

    def _layer_sizes(self) -> dict[str, Any]:
        """What every BERT stack of a checkpoint shares."""
        return {
            "hidden": self._bert_size("hidden_size"),
            "heads": self._bert_size("num_attention_heads"),
            "ffn": self._bert_size("intermediate_size"),
            "eps": float(self.bert.get("layer_norm_eps", 1e-12)),
            "dropout": float(self.bert.get("hidden_dropout_prob", 0.1)),
        }

    def _generation(self) -> GenerationDefaults:
        return GenerationDefaults(
            min_length=self._yaml_size("min_length"),
            max_length=self._yaml_size("max_length"),
            beam_size=self._yaml_size("beam_size"),
        )

    def _backbone_options(self, image_size: int, vision_library: VisionLibrary) -> dict[str, BackboneOption]:
        width, layers, patch_size = (self._tower_size(key) for key in ("width", "layers", "patch_size"))
        if vision_library == "timm":
            return {
                "img_size": image_size,
                "patch_size": patch_size,
                "embed_dim": width,
                "depth": layers,
                "num_heads": width // HEAD_WIDTH,
            }
        return {
            "image_size": image_size,
            "patch_size": patch_size,
            "width": width,
            "layers": layers,
            "head_width": HEAD_WIDTH,
        }

    @property
    def _clip_tower(self) -> ClipTower:
        name = self.yaml.get("clip_name", DEFAULTS["clip_name"])
        if name not in CLIP_TOWERS:
            raise CheckpointError(f"{self.where}: clip_name is {name!r}; known are {', '.join(CLIP_TOWERS)}")
        return CLIP_TOWERS[name]

    def _tower_size(self, key: Literal["layers", "width", "patch_size"]) -> int:
        # ModelScope's yaml spells the tower out; the raw one only names it.
        named: int = getattr(self._clip_tower, key)
        size = self._integer(self.yaml.get(f"clip_vision_{key}", named), f"clip_vision_{key}")
        if key == "width":
            stated = self._integer(self.yaml.get("vision_width", size), "vision_width")
            if stated != size:
                raise CheckpointError(f"{self.where}: vision_width is {stated}, the tower is {size} wide")
        return size

    def _yaml_size(self, key: str) -> int:
        return self._integer(self.yaml.get(key, DEFAULTS[key]), key)

    def _bert_size(self, key: str, default: int | None = None) -> int:
        value = self.bert.get(key, default)
        if value is None:
            raise CheckpointError(
                f"{self.where}: the BERT json lacks {key}; it must be mPLUG's own config_bert.json"
            )
        return self._integer(value, key)

    def _integer(self, value: object, key: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{self.where}: {key} is {value!r}; it must be a whole number")
        return value
