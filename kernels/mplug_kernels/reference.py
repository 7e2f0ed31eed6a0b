"""Cross-attention as the formula has it: the measure of every other form, in float64 where asked for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug_kernels.types import CrossWeights, silence_empty


def cross_attention(
    x_BLD: Tensor, memory_BNM: Tensor, weights: CrossWeights, memory_mask_BN: Tensor | None = None
) -> Tensor:
    """Project, score, softmax, mix; one sequence for each memory.

    Args:
        x_BLD: the stream (B, L, D).
        memory_BNM: what is attended to (B, N, M).
        weights: the projections, of the same dtype.
        memory_mask_BN: bool (B, N), True = attend; None = everything.

    Returns:
        The heads' joined context (B, L, D), before the output projection; zeros for a memory that is all masked.
    """
    heads = weights.num_heads
    q_BHLK = _split(F.linear(x_BLD, weights.query_DD, weights.query_bias_D), heads)
    k_BHNK = _split(F.linear(memory_BNM, weights.key_DM, weights.key_bias_D), heads)
    v_BHNK = _split(F.linear(memory_BNM, weights.value_DM, weights.value_bias_D), heads)
    score_BHLN = q_BHLK @ k_BHNK.transpose(2, 3) / math.sqrt(weights.head_width)
    if memory_mask_BN is not None:
        score_BHLN = score_BHLN.masked_fill(~memory_mask_BN[:, None, None], -torch.inf)
    context_BLD = (score_BHLN.softmax(-1) @ v_BHNK).transpose(1, 2).flatten(2)
    return silence_empty(context_BLD, memory_mask_BN)


def _split(x_BLD: Tensor, heads: int) -> Tensor:
    return x_BLD.view(*x_BLD.shape[:2], heads, -1).transpose(1, 2)
