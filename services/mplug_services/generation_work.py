"""Work items of decoders, and what they give; needs no torch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mplug_services.work import WorkItem, WorkKind

if TYPE_CHECKING:
    from mplug.generation import GenerationConfig  # its package imports torch

PIXELS_PER_TOKEN = 16 * 16
"""A token passes through about as many weights as a patch of the common vision towers, 16 x 16 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureItem(WorkItem):
    """A picture that something is decoded from."""

    pixels: NDArray[np.uint8]
    """uint8 (3, R, R)."""

    @property
    def num_pixels(self) -> int:
        """Pixels of the square."""
        return int(self.pixels.shape[1] * self.pixels.shape[2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerateItem(PictureItem):
    """A text to generate. Its cost is its pixels, and each token's share of them."""

    config: GenerationConfig
    """Items of equal settings are decoded together."""
    prompt: tuple[int, ...]
    """Token ids that the text begins with, at least the starting one."""
    seed: int = 0
    """Of sampling."""
    stream: bool = False
    """Whether to report the best text as it grows: `Progress` of its token ids so far, prompt included."""

    @property
    def cost(self) -> int:
        """In pixels."""
        return self.num_pixels + PIXELS_PER_TOKEN * self.config.sequences * self.config.max_length

    @property
    def batch_key(self) -> Hashable:
        """The settings."""
        return self.config


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionImage(GenerateItem):
    """One picture to describe. Gives `GeneratedIds`."""

    @property
    def kind(self) -> WorkKind:
        """Captions run with captions."""
        return WorkKind.CAPTION


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnswerQuestion(GenerateItem):
    """One question to answer in words of the model's own. Gives `GeneratedIds`."""

    question: NDArray[np.int64]
    """int64 (L,), special tokens included."""

    @property
    def kind(self) -> WorkKind:
        """Answers run with answers."""
        return WorkKind.ANSWER


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankAnswers(PictureItem):
    """One question to answer with the best of some answers. Gives `RankedIndices`."""

    question: NDArray[np.int64]
    """int64 (L,), special tokens included."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of each, from the starting token to the last that counts."""
    k: int
    """Answers to score in full."""

    @property
    def kind(self) -> WorkKind:
        """They use the answering model."""
        return WorkKind.ANSWER

    @property
    def cost(self) -> int:
        """In pixels."""
        longest = max(map(len, self.answers))
        return self.num_pixels + PIXELS_PER_TOKEN * longest * min(self.k, len(self.answers))

    @property
    def batch_key(self) -> Hashable:
        """Apart from what is generated."""
        return "rank"


@dataclass(frozen=True, slots=True)
class GeneratedIds:
    """Texts of one item, best first (drawn ones in the order of drawing)."""

    texts: tuple[tuple[int, ...], ...]
    """Token ids: prompt, then what was generated."""
    scores: tuple[float, ...]
    """Log-probability of what was generated, divided by the length penalty."""


@dataclass(frozen=True, slots=True)
class RankedIndices:
    """The best of the given answers, best first."""

    indices: tuple[int, ...]
    """Places in the list that was given."""
    probabilities: tuple[float, ...]
    """Among the answers that were scored in full."""
