"""Cross-attention straight against the raw memory: no key and no value is ever made.

For head h, with its slices Wk_h, Wv_h (K x M) of the projections and a query q_h:

    score_n  = (Wk_h x_n + bk_h) . q_h = x_n . (Wk_h^T q_h) + bk_h . q_h     the last term is the same for every n
    context  = sum_n p_n (Wv_h x_n + bv_h) = Wv_h (sum_n p_n x_n) + bv_h      because sum_n p_n = 1

So queries are folded into the memory's space (Wk_h^T q_h: a vector of width M for every head), attend there to one
memory that serves as keys and as values of all heads, and what they bring back is unfolded by Wv_h. The key bias is
dropped and the value bias added once, both exactly. Attention itself costs H times the arithmetic of `cached`, and
the projection, 95 to 99 % of the work for a short text, is gone. `dispatch` knows where that pays.

Dropout of attention weights is not for this form: their sum would not be 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug_kernels import compiled
from mplug_kernels.types import CrossWeights, sequences_per_memory, silence_empty


def attend(
    x_SLD: Tensor, memory_BNM: Tensor, weights: CrossWeights, memory_mask_BN: Tensor | None = None
) -> Tensor:
    """Attend from every sequence to its memory.

    Args:
        x_SLD: the stream (S, L, D); sequences of one memory lie side by side.
        memory_BNM: what is attended to (B, N, M); B divides S.
        weights: the projections.
        memory_mask_BN: bool (B, N), True = attend; None = everything.

    Returns:
        The heads' joined context (S, L, D), before the output projection; zeros for a memory that is all masked.

    Raises:
        ValueError: B does not divide S.
    """
    sequences = sequences_per_memory(x_SLD, len(memory_BNM))
    x_BTD = x_SLD.reshape(len(memory_BNM), sequences * x_SLD.shape[1], -1)
    context_BTD = attend_folded(fold_queries(x_BTD, weights), memory_BNM, weights, memory_mask_BN)
    return context_BTD.reshape(x_SLD.shape)


def fold_queries(x_BTD: Tensor, weights: CrossWeights) -> Tensor:
    """Queries in the memory's space, scaled by 1 / sqrt(K).

    Args:
        x_BTD: the stream (B, T, D). B may be 1 where every memory is asked the same: this is then done once.
        weights: query and key projections are used.

    Returns:
        (B, H, T, M).
    """
    q_BTD = F.linear(x_BTD, weights.query_DD, weights.query_bias_D) * weights.head_width**-0.5
    q_BTHK = q_BTD.view(*q_BTD.shape[:2], weights.num_heads, -1)
    key_HKM = weights.key_DM.view(weights.num_heads, weights.head_width, -1)
    return torch.einsum("bthk,hkm->bhtm", q_BTHK, key_HKM)


def attend_folded(
    q_BHTM: Tensor, memory_BNM: Tensor, weights: CrossWeights, memory_mask_BN: Tensor | None = None
) -> Tensor:
    """The rest of `attend`.

    Args:
        q_BHTM: from `fold_queries`, for B memories or (1, H, T, M) for all of them.
        memory_BNM: what is attended to (B, N, M).
        weights: the value projection is used.
        memory_mask_BN: bool (B, N), True = attend; None = everything.

    Returns:
        (B, T, D).
    """
    heads, tokens = q_BHTM.shape[1:3]
    rows_BRM = q_BHTM.flatten(1, 2).expand(len(memory_BNM), -1, -1)
    mixed_BHTM = _mix(rows_BRM, memory_BNM, memory_mask_BN).view(len(memory_BNM), heads, tokens, -1)
    value_HKM = weights.value_DM.view(heads, weights.head_width, -1)
    context_BTD = torch.einsum("bhtm,hkm->bthk", mixed_BHTM, value_HKM).flatten(2) + weights.value_bias_D
    return silence_empty(context_BTD, memory_mask_BN)


def _mix(rows_BRM: Tensor, memory_BNM: Tensor, memory_mask_BN: Tensor | None) -> Tensor:
    if memory_mask_BN is None:
        mixed_BRM = compiled.attend_absorbed(rows_BRM, memory_BNM)
        if mixed_BRM is not None:
            return mixed_BRM
    mask = None if memory_mask_BN is None else memory_mask_BN[:, None, None]
    memory_B1NM = memory_BNM[:, None]
    # One "head" as wide as the memory; float32 scores inside, whatever the dtype.
    mixed_B1RM = F.scaled_dot_product_attention(
        rows_BRM[:, None], memory_B1NM, memory_B1NM, attn_mask=mask, scale=1.0
    )
    return mixed_B1RM.squeeze(1)
