"""Settings of the experiments: what a configuration holds and `--set` changes. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mplug.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRates:
    """mPLUG's two learning rates, at the top of the schedule."""

    vision_tower: float
    """Of the tower alone; the adapter behind it learns with the rest, as `visn_fc` does in the reference."""
    rest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastConfig:
    """Contrast as mPLUG's configurations have it (pretraining and retrieval alike)."""

    queue_size: int = 65536
    """Embeddings of earlier batches that are contrasted with."""
    momentum: float = 0.995
    """How much of itself a twin keeps at each step."""
    alpha: float = 0.4
    """Share of the targets that is the twins' own distribution; it grows to this over the first epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalObjective:
    """The terms of the loss; the reference adds them as they are."""

    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    itc_weight: float = 1.0
    itm_weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionObjective:
    """The loss of captions."""

    label_smoothing: float = 0.0
    """Share of the target that is spread over the whole vocabulary; the reference has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScstObjective:
    """How captions are drawn and rewarded."""

    method: Literal["beam", "sample"] = "beam"
    """The reference's beams, or draws at temperature 1."""
    captions: int = 5
    """Captions of each picture, at least two: the reward of one alone is its own baseline."""
    min_length: int = 8
    max_length: int = 25
    """Both as the reference's caption scripts have them."""
    prompt: str = ""
    """What every caption begins with; not rewarded."""

    def __post_init__(self) -> None:
        if self.captions < 2:
            raise ConfigError(f"captions is {self.captions}; self-critical training compares at least 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """Which tokens are hidden, and how (Devlin et al. 2018, section 3.1)."""

    probability: float = 0.15
    """Share of a text's tokens that are to be restored (mPLUG's `mlm_probability`)."""
    as_mask: float = 0.8
    """Share of these that become [MASK]."""
    as_random: float = 0.1
    """Share of these that become any piece; the rest stays as it is."""

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ConfigError(f"probability is {self.probability}; it must be above 0, at most 1")
        if min(self.as_mask, self.as_random) < 0 or self.as_mask + self.as_random > 1:
            raise ConfigError(
                f"as_mask is {self.as_mask}, as_random {self.as_random}; they are shares of one whole"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingObjective:
    """The terms of the loss; a term of weight 0 is not computed."""

    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    masking: MaskConfig = field(default_factory=MaskConfig)
    itc_weight: float = 1.0
    itm_weight: float = 1.0
    mlm_weight: float = 1.0
    prefix_lm_weight: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.itc_weight, self.itm_weight, self.mlm_weight, self.prefix_lm_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ConfigError(f"the weights are {weights}; none may be negative, one must be above 0")
