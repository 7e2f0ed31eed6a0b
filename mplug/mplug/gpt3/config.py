"""The shape of a Chinese GPT-3, and those of the published sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from mplug.errors import ConfigError
from mplug.layers import Approximation

Layout = Literal["plain", "distributed"]
"""Which of the reference's two classes reads a folder: `GPT3Model`, or `DistributedGPT3` on Megatron."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpt3Sampling:
    """How a checkpoint wants its texts drawn, unless a call says otherwise (GPT3Config)."""

    tokens_to_generate: int = 100
    top_k: int = 0
    """0 = off, 1 = greedy."""
    top_p: float = 0.9
    """0 = off."""
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpt3Config:
    """A decoder with the norms in front, its output matrix tied to its word embeddings.

    Defaults are those of ModelScope's GPT3Config.

    Raises:
        ConfigError: a value that cannot be.
    """

    name: str
    layout: Layout
    vocab_size: int = 25600
    """Tokens V of the output matrix; the tokenizer may have fewer."""
    hidden: int = 768
    """Width D of the stream."""
    layers: int = 12
    heads: int = 12
    """Attention heads H; they divide `hidden`."""
    ffn: int = 3072
    """Inner width of the feed-forward blocks."""
    positions: int = 2048
    """Longest text in tokens, prompt included."""
    eps: float = 1e-12
    """Epsilon of every LayerNorm."""
    approximate: Approximation = "none"
    """The GELU: exact in `plain`; by tanh in `distributed`, whose fusion of bias and GELU computes it so."""
    dropout: float = 0.1
    """Dropout of embeddings, attention weights and sub-block outputs, in training only."""
    eod_id: int = 1
    """Token id that ends a text."""
    prompt_tokens: int = 128
    """Longest prompt of `plain` in tokens, [CLS] and [SEP] counted (`sequence_length` of its preprocessor)."""
    sampling: Gpt3Sampling = field(default_factory=Gpt3Sampling)
    licence: str = ""
    """Terms of the weights, where the folder states them; the reference has no such field."""

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise ConfigError(f"layout is {self.layout!r}; known are {', '.join(get_args(Layout))}")
        for name in ("vocab_size", "hidden", "layers", "heads", "ffn", "positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden % self.heads:
            raise ConfigError(f"heads is {self.heads}; it must divide hidden ({self.hidden})")
        if not 0 <= self.eod_id < self.vocab_size:
            raise ConfigError(f"eod_id is {self.eod_id}; it must lie below vocab_size ({self.vocab_size})")
        if self.prompt_tokens < 3:
            raise ConfigError(f"prompt_tokens is {self.prompt_tokens}; [CLS], [SEP] and a piece need 3")


def _size(name: str, layout: Layout, layers: int, heads: int, hidden: int) -> Gpt3Config:
    return Gpt3Config(
        name=f"gpt3-{name}",
        layout=layout,
        layers=layers,
        heads=heads,
        hidden=hidden,
        ffn=4 * hidden,
        approximate="none" if layout == "plain" else "tanh",
    )


SIZES: Mapping[str, Gpt3Config] = {
    "base": _size("base", "plain", 12, 12, 768),
    "large": _size("large", "plain", 24, 16, 1024),
    "1.3B": _size("1.3B", "distributed", 24, 32, 2048),
    "2.7B": _size("2.7B", "distributed", 32, 32, 2560),
    "13B": _size("13B", "distributed", 40, 40, 5120),
    "30B": _size("30B", "distributed", 48, 56, 7168),
}
"""By the names of ModelScope's cards (damo/nlp_gpt3_text-generation_...), which give layers, heads and width; the rest
is GPT3Config's."""
