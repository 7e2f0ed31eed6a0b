"""How far a model in fewer bits decides as the one it was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mplug.errors import MplugError
from mplug.text_generator import TextGenerator


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two models' numbers behind the same tokens."""

    tokens: int
    """Places that were compared."""
    equal: float
    """Share of the places where both find the same token the likeliest."""
    mean_error: float
    """Mean of |difference| over all logits."""
    max_error: float
    perplexity: float
    """Of the tokens that were read, by the reference."""
    other_perplexity: float
    """The same by the other model."""

    def __str__(self) -> str:
        change = self.other_perplexity / self.perplexity - 1
        return (
            f"{self.equal:.2%} of {self.tokens} greedy tokens equal; logits differ by {self.mean_error:.4f} on average "
            f"and {self.max_error:.3f} at most; perplexity {self.perplexity:.3f}, with fewer bits "
            f"{self.other_perplexity:.3f} ({change:+.2%})"
        )


@dataclass(slots=True)
class _Sums:
    places: int = 0
    equal: int = 0
    errors: list[float] = field(default_factory=list)
    max_error: float = 0.0
    read: int = 0
    losses: tuple[float, float] = (0.0, 0.0)

    def compare(self, logits_V: Tensor, other_V: Tensor) -> None:
        error_V = (logits_V - other_V).abs()
        self.places += 1
        self.equal += int(logits_V.argmax() == other_V.argmax())
        self.errors.append(float(error_V.mean()))
        self.max_error = max(self.max_error, float(error_V.max()))

    def judge(self, token: int, logits_V: Tensor, other_V: Tensor) -> None:
        self.read += 1
        ours, theirs = (-float(each.log_softmax(0)[token]) for each in (logits_V, other_V))
        self.losses = self.losses[0] + ours, self.losses[1] + theirs


@torch.inference_mode()
def agreement(
    reference: TextGenerator[Any], other: TextGenerator[Any], texts: Sequence[str], *, behind: int = 32
) -> Agreement:
    """Let two models read the same tokens, one by one, and compare what each expects next.

    Args:
        reference: the exact model, which also writes on greedily behind each text.
        other: the same checkpoint in another type.
        texts: to be continued, or sources.
        behind: most tokens that are written and then read behind each text.

    Raises:
        MplugError: no texts, or no tokens to be read in and behind them.
    """
    if not texts or behind < 1:
        raise MplugError(
            f"there are {len(texts)} texts and {behind} tokens behind each; give at least one of both"
        )
    sums = _Sums()
    for text in texts:
        _follow(reference, other, text, behind, sums)
    read = max(sums.read, 1)
    return Agreement(
        tokens=sums.places,
        equal=sums.equal / sums.places,
        mean_error=math.fsum(sums.errors) / sums.places,
        max_error=sums.max_error,
        perplexity=math.exp(sums.losses[0] / read),
        other_perplexity=math.exp(sums.losses[1] / read),
    )


def _follow(
    reference: TextGenerator[Any], other: TextGenerator[Any], text: str, behind: int, sums: _Sums
) -> None:
    prompt = reference.read(text)
    states = reference.start([prompt]), other.start([prompt])
    given, token = list(prompt.first[1:]), prompt.first[0]
    room = reference.decoder.max_positions - len(prompt.first)
    for _ in range(len(given) + min(behind, room)):
        ids_11 = torch.tensor([[token]])
        ours, theirs = (
            model.decoder.step(ids_11, state)[0].float()
            for model, state in zip((reference, other), states, strict=True)
        )
        sums.compare(ours, theirs)
        token = given.pop(0) if given else int(ours.argmax())
        sums.judge(token, ours, theirs)
        if not given and token == reference.decoder.eos_id:
            return
