"""The parts that FAQ networks are made of.

Dimensions beside those of `mplug.layers`: Q new questions, S known questions (the support set), C labels, J known
questions of each label (S = C * J), and L and M tokens of a new and of a known question.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.structbert.config import Pooling


class WeightNormLinear(nn.Module):
    """A linear layer whose rows have a direction and a length each (Salimans and Kingma 2016).

    The two stay apart, as they are in the checkpoints: joined, training would be another.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.length = nn.Parameter(torch.ones(outputs, 1))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        weight = self.length * self.direction / torch.linalg.vector_norm(self.direction, dim=1, keepdim=True)
        return F.linear(x, weight, self.bias)


class MeanPooling(nn.Module):
    """States to their mean over real tokens."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(..., L, D), and the mask, bool, broadcastable to (..., L) -> (..., D)."""
        weights = mask.to(x.dtype).unsqueeze(-1)
        return (x * weights).sum(dim=-2) / weights.sum(dim=-2)


class AttentionPooling(nn.Module):
    """States to a mean weighted by what a small network finds important."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = WeightNormLinear(width, width)
        self.score = WeightNormLinear(width, 1, bias=False)
        self.output = WeightNormLinear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(..., L, D), and the mask, bool, broadcastable to (..., L) -> (..., D)."""
        scores = self.score(torch.tanh(self.hidden(x))).squeeze(-1)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        pooled: Tensor = torch.einsum("...l,...ld->...d", weights, self.output(x))
        return pooled


def make_pooling(kind: Pooling, width: int) -> MeanPooling | AttentionPooling:
    """The pooling of a configuration."""
    return MeanPooling() if kind == "avg" else AttentionPooling(width)


def compared(a: Tensor, b: Tensor) -> Tensor:
    """Two vectors beside each other, then their product and their distance in each coordinate: (..., 4 D)."""
    return torch.cat([a, b, a * b, (a - b).abs()], dim=-1)


def attend(a: Tensor, b: Tensor, b_mask: Tensor) -> Tensor:
    """What each token of `a` finds in `b`, by dot products that are not scaled.

    Args:
        a: (..., L, D).
        b: (..., M, D); leading dimensions are broadcast.
        b_mask: bool (..., M), True = a real token, at least one in each row.

    Returns:
        (..., L, D); of padding in `a`, too, which the pooling leaves out.
    """
    scores = a @ b.transpose(-1, -2)
    return scores.masked_fill(~b_mask.unsqueeze(-2), -torch.inf).softmax(dim=-1) @ b
