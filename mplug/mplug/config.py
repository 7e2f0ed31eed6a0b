"""The shape of a model, as frozen dataclasses: what `config.json` of our own folder holds.

Every stack has its own heads: the text encoder's are here, those of stacks to come are theirs.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mplug.errors import ConfigError
from mplug.preprocess import PreprocessConfig

C = TypeVar("C")

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
        if self.hidden % self.heads:
            raise ConfigError(
                f"text_encoder.heads is {self.heads}; it must divide text_encoder.hidden ({self.hidden})"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MplugConfig:
    """A whole model: two encoders, their joint space, and what goes in."""

    name: str
    """Name shown to users; the folder's name unless the folder says otherwise."""
    licence: str = ""
    """Licence of the weights, and their permitted use."""
    image_encoder: ImageEncoderConfig
    text_encoder: TextEncoderConfig
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, nested as the dataclasses are."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MplugConfig:
        """Build from the values of `to_dict`.

        Raises:
            ConfigError: an unknown key, a missing key, or a value of the wrong kind; the message names it.
        """
        return _build(cls, values, where="")


def _build(cls: type[C], values: Mapping[str, Any], *, where: str) -> C:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be a JSON object, not {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        known = ", ".join(sorted(fields))
        raise ConfigError(
            f"unknown keys in {where or 'the configuration'}: {', '.join(unknown)}; known are {known}"
        )
    missing = sorted(name for name, f in fields.items() if _required(f) and name not in values)
    if missing:
        raise ConfigError(f"missing keys in {where or 'the configuration'}: {', '.join(missing)}")
    prefix = f"{where}." if where else ""
    return cls(**{name: _value(hints[name], value, where=prefix + name) for name, value in values.items()})


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, *, where: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(hint, value, where=where)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(float, item, where=where) for item in value)
    if (
        origin is not None
        and isinstance(origin, type)
        and issubclass(origin, Mapping)
        and isinstance(value, Mapping)
    ):
        return dict(value)
    kinds: tuple[Any, ...] = typing.get_args(hint) or (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
        return value
    raise ConfigError(
        f"{where} is {value!r}; it must be {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}"
    )
