"""Cross-attention to keys and values that were projected once; all sequences of a memory share them.

Nothing is tiled: the sequences of one memory (beams, questions) are folded into its query rows, which is exact
because cross-attention has no order among its queries.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mplug_kernels import compiled
from mplug_kernels.types import CrossWeights, prefix_lengths, sequences_per_memory, silence_empty


@dataclass(frozen=True, slots=True, eq=False)
class KeyValues:
    """What `project` makes of a memory."""

    key_BHNK: Tensor
    value_BHNK: Tensor

    def keep(self, rows_B: Tensor) -> KeyValues:
        """Those of some memories, by index (int64) or by choice (bool)."""
        return KeyValues(self.key_BHNK[rows_B], self.value_BHNK[rows_B])

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return self.key_BHNK.nbytes + self.value_BHNK.nbytes


def project(memory_BNM: Tensor, weights: CrossWeights) -> KeyValues:
    """Keys and values of a memory (B, N, M), to be kept for as long as it is attended to.

    The key bias is left out: it moves all scores of a query alike and softmax does not see it.
    """
    key_BND = F.linear(memory_BNM, weights.key_DM)
    value_BND = F.linear(memory_BNM, weights.value_DM, weights.value_bias_D)
    return KeyValues(_split_heads(key_BND, weights.num_heads), _split_heads(value_BND, weights.num_heads))


def attend(
    x_SLD: Tensor, key_values: KeyValues, weights: CrossWeights, memory_mask_BN: Tensor | None = None
) -> Tensor:
    """Attend from every sequence to its memory.

    Args:
        x_SLD: the stream (S, L, D); sequences of one memory lie side by side.
        key_values: of B memories; B divides S.
        weights: only the query projection is used.
        memory_mask_BN: bool (B, N), True = attend; None = everything. Where a compiled kernel would run, it is read
            from its device at every call.

    Returns:
        The heads' joined context (S, L, D), before the output projection; zeros for a memory that is all masked.

    Raises:
        ValueError: B does not divide S.
    """
    memories = key_values.key_BHNK.shape[0]
    sequences_per_memory(x_SLD, memories)
    q_SLD = F.linear(x_SLD, weights.query_DD, weights.query_bias_D)
    q_BTHK = q_SLD.view(memories, -1, weights.num_heads, weights.head_width)
    kv_lens = None if memory_mask_BN is None else functools.partial(prefix_lengths, memory_mask_BN)
    context_BTHK = compiled.attend_cached(q_BTHK, key_values.key_BHNK, key_values.value_BHNK, kv_lens)
    if context_BTHK is not None:
        return context_BTHK.reshape(x_SLD.shape)
    mask = None if memory_mask_BN is None else memory_mask_BN[:, None, None]
    context_BHTK = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2), key_values.key_BHNK, key_values.value_BHNK, attn_mask=mask
    )
    context_BTD = silence_empty(context_BHTK.transpose(1, 2).flatten(2), memory_mask_BN)
    return context_BTD.reshape(x_SLD.shape)


def _split_heads(x_BND: Tensor, heads: int) -> Tensor:
    return x_BND.view(*x_BND.shape[:2], heads, -1).transpose(1, 2)
