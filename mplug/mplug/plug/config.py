"""The shape of a PLUG, and that of the published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mplug.config import TextEncoderConfig
from mplug.errors import ConfigError

PAD_ID = 0
UNK_ID = 100
BOS_ID = 101
EOS_ID = 102
"""[PAD], [UNK], [CLS] and [SEP]: constants of the reference, whatever the vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlugSampling:
    """How texts are drawn, unless a call says otherwise (the section `model` of `configuration.json`).

    The defaults are those of AliceMind's scripts.
    """

    max_length: int = 128
    """Most tokens that are generated (`out_length`)."""
    top_k: int = 20
    """0 = off."""
    top_p: float = 0.0
    """0 = off."""
    temperature: float = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class PlugConfig:
    """An encoder and a decoder that share their embeddings.

    Defaults are ModelScope's (PlugNLUConfig, which is what reads a folder there, whatever its class is called).

    Raises:
        ConfigError: a value that cannot be.
    """

    name: str
    vocab_size: int = 21504
    """Rows V of the table: the vocabulary, padded so that tensor-parallel ranks divide it."""
    original_vocab_size: int = 21128
    """Tokens of the vocabulary; those behind them are taken for [UNK]."""
    hidden: int = 8192
    """Width D of the stream."""
    layers: int = 24
    """Of the encoder."""
    decoder_layers: int = 6
    heads: int = 128
    """Attention heads H; they divide `hidden`."""
    ffn: int = 32768
    """Inner width of the feed-forward blocks."""
    positions: int = 2048
    """Longest source, and longest text, in tokens."""
    types: int = 3
    """Token types; generation uses type 0 alone."""
    pre_norm: bool = True
    """Whether the encoder's layers have their norms in front (`pre_ln`); the decoder's always do."""
    eps: float = 1e-5
    """Epsilon of every LayerNorm."""
    dropout: float = 0.1
    """Of embeddings, attention weights and sub-block outputs, in training only."""
    max_length: int = 512
    """Longest source in tokens, [CLS] and [SEP] included (`sequence_length` of the reference's pipeline)."""
    labels: tuple[str, ...] = ()
    """Of the classifier on the encoder, in the order of its outputs; most checkpoints have none."""
    sampling: PlugSampling = field(default_factory=PlugSampling)

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden",
            "layers",
            "decoder_layers",
            "heads",
            "ffn",
            "positions",
            "types",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden % self.heads:
            raise ConfigError(f"heads is {self.heads}; it must divide hidden ({self.hidden})")
        if not EOS_ID < self.original_vocab_size <= self.vocab_size:
            raise ConfigError(
                f"original_vocab_size is {self.original_vocab_size}; it must lie above {EOS_ID}, which ends texts, and "
                f"be at most vocab_size ({self.vocab_size})"
            )
        if not 3 <= self.max_length <= self.positions:
            raise ConfigError(
                f"max_length is {self.max_length}; it must lie between 3 and positions ({self.positions})"
            )

    @property
    def text(self) -> TextEncoderConfig:
        """The encoder's shape, in the words of those that build BERTs."""
        return TextEncoderConfig(
            vocab_size=self.vocab_size,
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            ffn=self.ffn,
            positions=self.positions,
            types=self.types,
            eps=self.eps,
            pad_id=PAD_ID,
            dropout=self.dropout,
        )


SIZES: Mapping[str, PlugConfig] = {"27B": PlugConfig(name="plug-27B")}
"""damo/nlp_plug_text-generation_27B: the defaults. PLUG of 2 trillion parameters, which the talk names beside it, was a
mixture of experts; no part of it was published, and this network is dense."""
