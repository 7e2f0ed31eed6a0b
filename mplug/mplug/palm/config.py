"""The shape of a PALM 2.0, and those of the published sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from mplug.config import GenerationDefaults, TextEncoderConfig
from mplug.errors import ConfigError

EncoderKind = Literal["zh_bert", "bert", "roberta"]
"""The reference's words; the first two are the same network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PalmDecoderConfig:
    """The decoder, as wide as the encoder; defaults are PalmConfig's."""

    layers: int = 12
    heads: int = 8
    """Attention heads H; they divide the width."""
    ffn: int = 3072
    """Inner width of the feed-forward blocks."""
    dropout: float = 0.2
    """Of embeddings, attention weights and sub-block outputs, in training only."""
    positions: int = 5000
    """Longest text in tokens; positions are computed, this is what the reference has a table for."""
    eps: float = 1e-6
    """Epsilon of every LayerNorm; a constant of the reference."""
    bos_id: int
    """Token id that starts a text."""
    eos_id: int
    """Token id that ends a text."""
    pad_id: int
    """Token id of padding, in the encoder's texts, too; a constant of the reference: 1 with `roberta`, else 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PalmConfig:
    """An encoder of BERT or RoBERTa and a decoder of its own embeddings.

    Raises:
        ConfigError: a value that cannot be.
    """

    name: str
    kind: EncoderKind
    encoder: TextEncoderConfig
    decoder: PalmDecoderConfig
    max_length: int = 128
    """Longest source in tokens, special ones included (`sequence_length` of the reference's preprocessor)."""
    generation: GenerationDefaults = field(
        default_factory=lambda: GenerationDefaults(min_length=40, max_length=130, beam_size=5)
    )
    length_penalty: float = 0.95
    """Exponent of the beam search's length penalty (`alpha`)."""
    label_smoothing: float = 0.1
    """Probability that training spreads over wrong tokens; 0 = none."""
    encoder_folder: str = "roberta-base"
    """Where, in a checkpoint's folder, the encoder's sizes and the vocabulary are (`encoder_pth`)."""
    licence: str = ""
    """Terms of the weights, where the folder states them; the reference has no such field."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(EncoderKind):
            raise ConfigError(f"encoder is {self.kind!r}; known are {', '.join(get_args(EncoderKind))}")
        if self.encoder.hidden % self.decoder.heads:
            raise ConfigError(
                f"dec_heads is {self.decoder.heads}; it must divide the decoder's width ({self.encoder.hidden})"
            )
        if not 3 <= self.max_length <= self.longest_source:
            raise ConfigError(
                f"max_length is {self.max_length}; it must lie between 3 and the {self.longest_source} tokens that "
                "the encoder has positions for"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        for name in ("bos_id", "eos_id", "pad_id"):
            if not 0 <= getattr(self.decoder, name) < self.encoder.vocab_size:
                raise ConfigError(
                    f"{name} is {getattr(self.decoder, name)}; it must lie below vocab_size "
                    f"({self.encoder.vocab_size})"
                )

    @property
    def first_position(self) -> int:
        """Row of the encoder's position table where a text begins; RoBERTa's begin behind the number of padding."""
        return self.encoder.pad_id + 1 if self.kind == "roberta" else 0

    @property
    def longest_source(self) -> int:
        """Tokens that the encoder has positions for."""
        return self.encoder.positions - self.first_position


SIZES: Mapping[str, PalmConfig] = {
    "chinese-base": PalmConfig(
        name="palm-chinese-base",
        kind="zh_bert",
        encoder=TextEncoderConfig(vocab_size=21128, hidden=768, layers=12, heads=12, ffn=3072, dropout=0.1),
        decoder=PalmDecoderConfig(bos_id=101, eos_id=102, pad_id=0),
        encoder_folder="zh_bert",
    ),
    "english-base": PalmConfig(
        name="palm-english-base",
        kind="roberta",
        encoder=TextEncoderConfig(
            vocab_size=50265,
            hidden=768,
            layers=12,
            heads=12,
            ffn=3072,
            positions=514,
            types=1,
            eps=1e-5,
            pad_id=1,
            dropout=0.1,
        ),
        decoder=PalmDecoderConfig(bos_id=0, eos_id=2, pad_id=1),
    ),
}
"""By the names of ModelScope's models (damo/nlp_palm2.0_text-generation_...). The encoders are BERT-base with the
Chinese vocabulary and RoBERTa-base, the decoders PalmConfig's; the cards give "about 230M" for chinese-base, and the
sizes of chinese-large nowhere."""
