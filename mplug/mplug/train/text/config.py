"""Settings of text generators' training, and the recipes. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from mplug.errors import ConfigError
from mplug.train.config import LoopConfig, OptimizerConfig

MINI_TEXT_LICENCE = "Research use: weights trained on texts handed on for research; code Apache-2.0."


@dataclass(frozen=True, kw_only=True, slots=True)
class TextMeasureConfig:
    """What an evaluation looks at."""

    written: int = 100
    """Rows that a text is written of, greedily, to be scored against their targets."""
    max_length: int = 64
    """Longest of these in tokens."""
    batch_size: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRunConfig(LoopConfig):
    """Training of a text generator."""

    start: str = ""
    """The model to start from: a folder of any family that writes, or a shipped model's name."""
    batch_size: int = 16
    """Rows of a part of a step."""
    lr: float = 3e-4
    """At the top of the schedule."""
    max_text_tokens: int = 256
    """Longest text that the decoder learns, in tokens; of longer ones the beginning is learnt, and no end."""
    dropout: float = -1.0
    """Of the model that training starts from; negative: as its folder says."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over the whole vocabulary."""
    goal: str = "perplexity"
    """Metric that the best checkpoint is chosen by: the lowest `perplexity`, or the highest of any other."""
    dev: str = ""
    """Rows that the best checkpoint is chosen by, of any kind that data may have; empty: a part of the data."""
    num_dev_rows: int = 200
    """Training rows set aside for that, where the data publishes a split and none to choose by."""
    held_out_percent: int = 10
    """Share of the rows set aside for that, by sha1 of their texts, where the data publishes no split."""
    measure: TextMeasureConfig = field(default_factory=TextMeasureConfig)

    def __post_init__(self) -> None:
        if self.max_text_tokens < 3:
            raise ConfigError(
                f"max_text_tokens is {self.max_text_tokens}; a text has 3 with its first and last"
            )
        if self.dropout >= 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be below 1")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallShape:
    """A small model: both halves where it has two."""

    hidden: int
    layers: int
    """Of each half."""
    heads: int
    positions: int
    """Longest text in tokens; of two halves, the longest source."""
    least_count: int
    """A character of the training rows that comes so often is a token."""
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniTextConfig(TextRunConfig):
    """A stage of a small model that ships; its data is a folder with `text_*.jsonl` (`poems.py`, `titles.py`)."""

    name: str
    """Of the model."""
    general: bool
    """The first stage, on texts and tasks made of them, or the second, on prompts as people give them."""
    shape: SmallShape
    """Of the first stage's new model."""


def finetune_text() -> TextRunConfig:
    """A user's own rows: the reference's GPT-3 fine-tuning (AdamW at 3e-4, 100 steps of warm-up, batches of 16)."""
    return TextRunConfig(epochs=10, optimizer=OptimizerConfig(warmup_steps=100))


def poem_mini_base() -> MiniTextConfig:
    """gpt3-poem-mini's first stage: poems and couplets as texts, which say nothing of the tune that they are to."""
    return MiniTextConfig(
        name="gpt3-poem-mini",
        general=True,
        shape=SmallShape(hidden=256, layers=3, heads=4, positions=320, least_count=3, dropout=0.0),
        batch_size=6,
        lr=6e-4,
        epochs=1,
        checkpoint_every=500,
        max_text_tokens=256,
        precision="float32",
        optimizer=_MINI_OPTIMIZER,
        measure=TextMeasureConfig(written=0),
    )


def poem_mini() -> MiniTextConfig:
    """gpt3-poem-mini's second stage, on what the first left: a tune's name, a metre or a first line, then the poem."""
    base = poem_mini_base()
    return MiniTextConfig(
        name=base.name,
        general=False,
        shape=base.shape,
        start="runs/gpt3-poem-mini-base/output_best",
        batch_size=6,
        lr=6e-4,
        epochs=10,
        checkpoint_every=500,
        max_text_tokens=256,
        dropout=0.1,
        precision="float32",
        optimizer=_MINI_OPTIMIZER,
        measure=TextMeasureConfig(written=100, max_length=160),
    )


def palm_mini_base() -> MiniTextConfig:
    """palm-mini's first stage: lines and clauses to be found and copied, and lines to be answered."""
    return MiniTextConfig(
        name="palm-mini",
        general=True,
        shape=SmallShape(hidden=192, layers=2, heads=4, positions=128, least_count=2, dropout=0.0),
        batch_size=8,
        lr=6e-4,
        epochs=5,
        checkpoint_every=500,
        max_text_tokens=40,
        precision="float32",
        optimizer=_MINI_OPTIMIZER,
        measure=TextMeasureConfig(written=0),
    )


def palm_mini() -> MiniTextConfig:
    """palm-mini's second stage, on what the first left: abstract to title, first line to second."""
    base = palm_mini_base()
    return MiniTextConfig(
        name=base.name,
        general=False,
        shape=base.shape,
        start="runs/palm-mini-base/output_best",
        batch_size=8,
        lr=4e-4,
        epochs=6,
        goal="rouge_l",
        checkpoint_every=500,
        max_text_tokens=40,
        dropout=0.1,
        label_smoothing=0.1,
        precision="float32",
        optimizer=_MINI_OPTIMIZER,
        measure=TextMeasureConfig(written=100, max_length=40),
    )


_MINI_OPTIMIZER = OptimizerConfig(weight_decay=0.05, warmup_steps=100, final_lr_share=0.05)
