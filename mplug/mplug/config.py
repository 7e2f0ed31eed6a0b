"""The shape of a model, as frozen dataclasses: what `config.json` of our own folder holds.

Every stack has its own heads: the text encoder's are here, those of stacks to come are theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mplug.config_values import build
from mplug.errors import ConfigError
from mplug.preprocess import PreprocessConfig

# timm's and open_clip's constructors take these.
BackboneOption = int | float | bool | str | Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoderConfig:
    """The vision tower and the adapter behind it."""

    backbone: str
    """`timm:NAME` or `open_clip:NAME`, such as `timm:vit_base_patch16_clip_quickgelu_224`,
    `timm:tf_efficientnet_lite0`, `open_clip:ViT-B-16-quickgelu`."""
    backbone_options: Mapping[str, BackboneOption] = field(default_factory=dict)
    """Sizes that differ from the named ones: timm's constructor arguments (`img_size`, `patch_size`,
    `embed_dim`, `depth`, `num_heads`) or the fields of open_clip's `vision_cfg` (`image_size`, `patch_size`,
    `width`, `layers`, `head_width`)."""
    width: int
    """Width of the tower's tokens."""
    adapter_width: int | None = None
    """Width after the adapter (Linear + LayerNorm); None = no adapter, the tower's tokens as they are."""
    adapter_eps: float = 1e-12
    """Epsilon of the adapter's LayerNorm (mPLUG: 1e-12)."""

    @property
    def output_width(self) -> int:
        """Width D of image_tokens."""
        return self.width if self.adapter_width is None else self.adapter_width


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderConfig:
    """A BERT encoder without pooler."""

    vocab_size: int
    """Pieces V of the vocabulary."""
    hidden: int
    """Width D of the stream."""
    layers: int
    """Number of layers (mPLUG: 6 of BERT's 12)."""
    heads: int
    """Attention heads H; they divide `hidden`."""
    ffn: int
    """Inner width of the feed-forward block."""
    positions: int = 512
    """Longest text in tokens that has position embeddings."""
    types: int = 2
    """Token types; retrieval uses type 0 only."""
    eps: float = 1e-12
    """Epsilon of every LayerNorm (BERT: 1e-12)."""
    pad_id: int = 0
    """Token id of padding."""
    mean_pooling: bool = False
    """The text's vector is the mean of its states (Sentence-BERT, MiniLM), not that of [CLS] (mPLUG)."""
    dropout: float = 0.0
    """Dropout of embeddings, attention weights and sub-block outputs, in training only (BERT: 0.1)."""

    def __post_init__(self) -> None:
        _check_heads("text_encoder", self.hidden, self.heads)


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionEncoderConfig:
    """The layers that mix text states with image_tokens; mPLUG's skip-connected network (section 3.1)."""

    hidden: int
    """Width D of the text states."""
    layers: int
    """Layers that run; a reference checkpoint holds more, which never do."""
    stride_layer: int
    """Every layer n > 0 that this divides is connected: it attends over image and text as one sequence. The
    others are asymmetric. mPLUG: 3 (base), 6 (large, where no layer is connected)."""
    heads: int
    """Attention heads H; they divide `hidden`."""
    ffn: int
    """Inner width of the feed-forward blocks."""
    memory_width: int
    """Width of image_tokens."""
    eps: float = 1e-12
    """Epsilon of every LayerNorm (BERT: 1e-12)."""
    dropout: float = 0.0
    """Dropout of attention weights and sub-block outputs, in training only (BERT: 0.1)."""

    def __post_init__(self) -> None:
        _check_heads("fusion_encoder", self.hidden, self.heads)
        _check_positive("fusion_encoder", self, "layers", "stride_layer", "ffn")
        if self.connected_layers and self.memory_width != self.hidden:
            raise ConfigError(
                f"fusion_encoder.memory_width is {self.memory_width}, fusion_encoder.hidden {self.hidden}; "
                "connected layers join image and text to one sequence, so the two must be equal"
            )

    @property
    def connected_layers(self) -> tuple[int, ...]:
        """Numbers of the connected layers, counted from the first one that runs."""
        return tuple(range(self.stride_layer, self.layers, self.stride_layer))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDecoderConfig:
    """A BERT decoder with cross-attention in every layer, its head tied to its word embeddings."""

    vocab_size: int
    """Pieces V of the vocabulary."""
    hidden: int
    """Width D of the stream."""
    layers: int
    """Number of layers (mPLUG: 12)."""
    heads: int
    """Attention heads H; they divide `hidden`."""
    ffn: int
    """Inner width of the feed-forward blocks."""
    positions: int = 512
    """Longest text in tokens that has position embeddings."""
    types: int = 2
    """Token types; type 0 is used."""
    memory_width: int
    """Width of what is attended to: image_tokens, and the fused text where there is one."""
    shared_words: bool = False
    """Whether its word embeddings are the text encoder's: one table, stored once (mplug-mini). mPLUG has two."""
    eps: float = 1e-12
    """Epsilon of every LayerNorm (BERT: 1e-12)."""
    pad_id: int = 0
    """Token id of padding."""
    bos_id: int = 101
    """Token id that starts a text; the reference has it hard-wired, whatever the vocabulary."""
    eos_id: int = 102
    """Token id that ends a text; hard-wired as well."""
    dropout: float = 0.0
    """Dropout of embeddings, attention weights and sub-block outputs, in training only (BERT: 0.1)."""

    def __post_init__(self) -> None:
        _check_heads("text_decoder", self.hidden, self.heads)
        _check_positive("text_decoder", self, "layers", "ffn", "positions")
        for name in ("pad_id", "bos_id", "eos_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ConfigError(
                    f"text_decoder.{name} is {getattr(self, name)}; it must lie below "
                    f"text_decoder.vocab_size ({self.vocab_size})"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationDefaults:
    """How a checkpoint wants its texts generated, unless a call says otherwise (ModelScope's MPlugConfig)."""

    min_length: int = 1
    """Tokens before the end is allowed, [CLS] and [SEP] not counted."""
    max_length: int = 10
    """Most tokens that are generated, [SEP] counted, [CLS] not."""
    beam_size: int = 5
    """Beams of the reference's search; 1 = greedy."""

    def __post_init__(self) -> None:
        _check_positive("generation", self, "max_length", "beam_size")
        if not 0 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"generation.min_length is {self.min_length}; it must lie between 0 and "
                f"generation.max_length ({self.max_length})"
            )

    def settings(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `GenerationConfig`: these with changes; what is not given gives way to what is.

        Any: names and values of its fields.
        """
        longest = changes.get("max_length", self.max_length)
        shortest = max(0, min(self.min_length, longest))
        own = {"min_length": shortest, "max_length": longest, "beam_size": self.beam_size}
        return {**own, **changes}


def _check_heads(where: str, hidden: int, heads: int) -> None:
    if heads < 1 or hidden % heads:
        raise ConfigError(f"{where}.heads is {heads}; it must divide {where}.hidden ({hidden})")


def _check_positive(where: str, config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{where}.{name} is {getattr(config, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class MplugConfig:
    """A whole model: the encoders, what stands on them, and what goes in."""

    name: str
    """Name shown to users; the folder's name unless the folder says otherwise."""
    licence: str = ""
    """Licence of the weights, and their permitted use."""
    image_encoder: ImageEncoderConfig
    text_encoder: TextEncoderConfig
    fusion_encoder: FusionEncoderConfig | None = None
    """None = a model without one: it neither reranks nor answers."""
    text_decoder: TextDecoderConfig | None = None
    """None = a model without one: it neither captions nor answers."""
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    embed_dim: int = 256
    """Width E of the joint space."""
    preprocess: PreprocessConfig
    max_text_tokens: int = 25
    """Longest text in tokens, [CLS] and [SEP] included (mPLUG: 25); longer ones are truncated and say so."""
    lower_case: bool = True
    """Whether the tokenizer lower-cases and strips accents."""

    def __post_init__(self) -> None:
        if self.image_encoder.output_width != self.text_encoder.hidden:
            raise ConfigError(
                f"image tokens are {self.image_encoder.output_width} wide, "
                f"text states {self.text_encoder.hidden}; set image_encoder.adapter_width to the latter"
            )
        if not 2 <= self.max_text_tokens <= self.text_encoder.positions:
            raise ConfigError(
                f"max_text_tokens is {self.max_text_tokens}; it must lie between 2 and "
                f"text_encoder.positions ({self.text_encoder.positions})"
            )
        self._check_widths()

    def _check_widths(self) -> None:
        image, fusion, decoder = self.image_encoder.output_width, self.fusion_encoder, self.text_decoder
        if fusion is not None and (fusion.hidden, fusion.memory_width) != (self.text_encoder.hidden, image):
            raise ConfigError(
                f"fusion_encoder.hidden is {fusion.hidden}, its memory_width {fusion.memory_width}; the "
                f"text states are {self.text_encoder.hidden} wide, the image tokens {image}"
            )
        if decoder is not None and decoder.memory_width != image:
            raise ConfigError(
                f"text_decoder.memory_width is {decoder.memory_width}; the image tokens are {image} wide"
            )
        text = self.text_encoder
        table = (text.vocab_size, text.hidden)
        if decoder is not None and decoder.shared_words and (decoder.vocab_size, decoder.hidden) != table:
            raise ConfigError(
                f"text_decoder.shared_words is set, and its table would be {decoder.vocab_size} x "
                f"{decoder.hidden}, the text encoder's is {text.vocab_size} x {text.hidden}; make them equal"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, nested as the dataclasses are."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MplugConfig:
        """Build from the values of `to_dict`.

        Raises:
            ConfigError: an unknown key, a missing key, or a value of the wrong kind; the message names it.
        """
        return build(cls, values, where="")
