"""A decoder's layers on the newest tokens alone, with keys and values of all earlier ones from a `DecoderState`.

The arithmetic is `CrossLayer.forward`'s, without dropout; the matrices are in the layout for few rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mplug.decoder_state import DecoderState
from mplug.layers import CrossLayer
from mplug.packed_linear import PackedLinear
from mplug_kernels import compiled
from mplug_kernels.cached import KeyValues


class PackedDecoder:
    """A copy of a decoder's matrices, laid out for decoding.

    Args:
        layers: the decoder's.
        dense: the head's own matrix.
        norm: the head's LayerNorm.
        vocabulary: output matrix (V, D) and bias (V,).
    """

    def __init__(
        self,
        layers: Sequence[CrossLayer],
        dense: nn.Linear,
        norm: nn.LayerNorm,
        vocabulary: tuple[Tensor, Tensor],
    ) -> None:
        self._layers = [_PackedLayer(layer, number) for number, layer in enumerate(layers)]
        self._dense = PackedLinear.of(dense, gelu=True)
        self._norm = norm
        self._vocabulary = PackedLinear([vocabulary[0]], [vocabulary[1]])

    def project(self, memory_BNM: Tensor) -> list[KeyValues]:
        """Keys and values of every layer's cross-attention, (B, H, N, K) each."""
        return [layer.project(memory_BNM) for layer in self._layers]

    def read(self, x_SLD: Tensor, state: DecoderState, mask: Tensor | None) -> Tensor:
        """Run all layers over embedded tokens (S, L, D), for which the state has made room."""
        for layer in self._layers:
            x_SLD = layer(x_SLD, state, mask)
        return x_SLD

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self._vocabulary(self._norm(self._dense(x)))


class _PackedLayer:
    def __init__(self, layer: CrossLayer, number: int) -> None:
        attention, cross = layer.attention, layer.cross_attention
        self._number = number
        self._num_heads = attention.num_heads
        self._query_key_value = PackedLinear.of(attention.query, attention.key, attention.value)
        self._output = PackedLinear.of(attention.output)
        self._norm = layer.attention_norm
        self._cross_key_value = PackedLinear.of(cross.key, cross.value)
        self._cross_query = PackedLinear.of(cross.query)
        self._cross_output = PackedLinear.of(cross.output)
        self._cross_norm = layer.cross_attention_norm
        self._expand = PackedLinear.of(layer.feed_forward.expand, gelu=True)
        self._contract = PackedLinear.of(layer.feed_forward.contract)
        self._feed_forward_norm = layer.feed_forward_norm

    def project(self, memory_BNM: Tensor) -> KeyValues:
        shape = (*memory_BNM.shape[:2], 2, self._num_heads, -1)
        key_value_2BNHK = self._cross_key_value(memory_BNM).view(shape).movedim(2, 0)
        if memory_BNM.is_cuda:  # compiled kernels read either alone, without gaps
            key_value_2BNHK = key_value_2BNHK.contiguous()
        return KeyValues(key_value_2BNHK[0].transpose(1, 2), key_value_2BNHK[1].transpose(1, 2))

    def __call__(self, x_SLD: Tensor, state: DecoderState, mask: Tensor | None) -> Tensor:
        x_SLD = self._norm(x_SLD + self._attend_to_text(x_SLD, state, mask))
        x_SLD = self._cross_norm(x_SLD + self._attend_to_memory(x_SLD, state))
        output_SLD: Tensor = self._feed_forward_norm(x_SLD + self._contract(self._expand(x_SLD)))
        return output_SLD

    def _attend_to_text(self, x_SLD: Tensor, state: DecoderState, mask: Tensor | None) -> Tensor:
        projected_SL3HK = self._query_key_value(x_SLD).view(*x_SLD.shape[:2], 3, self._num_heads, -1)
        return self._output(attend_to_text(projected_SL3HK, self._number, state, mask))

    def _attend_to_memory(self, x_SLD: Tensor, state: DecoderState) -> Tensor:
        return self._cross_output(attend_to_memory(self._cross_query(x_SLD), self._number, state))


def attend_to_text(
    query_key_value_SL3HK: Tensor, number: int, state: DecoderState, mask: Tensor | None
) -> Tensor:
    """Self-attention of the newest tokens over all of their sequence; stores their keys and values.

    Args:
        query_key_value_SL3HK: (S, L, 3, H, K).
        number: the layer's, of those that the state keeps.
        state: has made room for the tokens.
        mask: bool, broadcastable to (S, H, L, T), True = attend; None = everything.

    Returns:
        (S, L, H * K), before the output matrix.
    """
    key_SHTK, value_SHTK = state.write(number, query_key_value_SL3HK[:, :, 1:])
    query_SHLK = query_key_value_SL3HK[:, :, 0].transpose(1, 2)
    out_SHLK = F.scaled_dot_product_attention(query_SHLK, key_SHTK, value_SHTK, attn_mask=mask)
    return out_SHLK.transpose(1, 2).flatten(2)


def attend_to_memory(query_SLD: Tensor, number: int, state: DecoderState) -> Tensor:
    """Cross-attention of the newest tokens over their image's keys and values; (S, L, D), before the output matrix."""
    # Nothing orders the memory, so an image's sequences are so many more rows of queries (r * L, here P).
    cross = state.cross[number]
    num_heads = cross.key_BHNK.shape[1]
    query_BPHK = query_SLD.reshape(state.num_images, -1, num_heads, query_SLD.shape[-1] // num_heads)
    kv_lens = None if state.memory_mask_B11N is None else state.memory_lengths
    compiled_BPHK = compiled.attend_cached(query_BPHK, cross.key_BHNK, cross.value_BHNK, kv_lens)
    if compiled_BPHK is not None:
        return compiled_BPHK.reshape(query_SLD.shape)
    out_BHPK = F.scaled_dot_product_attention(
        query_BPHK.transpose(1, 2), cross.key_BHNK, cross.value_BHNK, attn_mask=state.memory_mask_B11N
    )
    return out_BHPK.transpose(1, 2).reshape(query_SLD.shape)
