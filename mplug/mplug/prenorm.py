"""Layers with the LayerNorm in front of each sub-block, and decoding with them.

The stream itself is never normed on its way (Radford et al. 2019, section 2.3); who uses the layers norms it once,
behind the last. The modules are for teacher forcing; `PackedPreNorm` runs the same layers on the newest tokens alone,
with all earlier keys and values from a `DecoderState`, as `mplug.decoder_step` does for layers with the norm behind.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mplug.decoder_state import DecoderState
from mplug.decoder_step import attend_to_memory, attend_to_text
from mplug.layers import Approximation, Attention, FeedForward
from mplug.packed_linear import PackedLinear
from mplug_kernels.cached import KeyValues


class PreNormLayer(nn.Module):
    """Self-attention and feed-forward, each behind a LayerNorm and beside a residual."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner_width: int,
        *,
        eps: float,
        approximate: Approximation = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, num_heads, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, inner_width, approximate=approximate)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); mask is bool, broadcastable to (B, H, L, L), True = attend."""
        x_BLD = x_BLD + self.dropout(self.attention(self.attention_norm(x_BLD), mask=mask))
        output_BLD: Tensor = x_BLD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BLD)))
        return output_BLD


class PreNormCrossLayer(nn.Module):
    """A `PreNormLayer` with cross-attention to a memory between its two sub-blocks; the memory is not normed."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner_width: int,
        *,
        memory_width: int,
        eps: float,
        approximate: Approximation = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, num_heads, dropout=dropout)
        self.cross_attention_norm = nn.LayerNorm(width, eps=eps)
        self.cross_attention = Attention(width, num_heads, memory_width=memory_width, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, inner_width, approximate=approximate)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BLD: Tensor,
        memory_BND: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend within the text, then to the memory, then feed forward.

        Args:
            x_BLD: the stream (B, L, D).
            memory_BND: what is attended to (B, N, memory_width).
            mask: bool, broadcastable to (B, H, L, L), True = attend; None = everything.
            memory_mask: bool, broadcastable to (B, H, L, N), True = attend; None = everything.

        Returns:
            (B, L, D).
        """
        x_BLD = x_BLD + self.dropout(self.attention(self.attention_norm(x_BLD), mask=mask))
        normed_BLD = self.cross_attention_norm(x_BLD)
        crossed_BLD = self.cross_attention(normed_BLD, memory_BND=memory_BND, mask=memory_mask)
        x_BLD = x_BLD + self.dropout(crossed_BLD)
        output_BLD: Tensor = x_BLD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BLD)))
        return output_BLD


class PackedPreNorm:
    """A copy of a decoder's matrices, laid out for decoding (`mplug.packed_linear`).

    Args:
        layers: the decoder's, all of one kind.
        norm: behind the last.
        words: the table (V, D) that is the output matrix, an `nn.Embedding` or a `QuantizedEmbedding`.
        bias_V: its bias; None = there is none.
    """

    def __init__(
        self,
        layers: Sequence[PreNormLayer | PreNormCrossLayer],
        norm: nn.LayerNorm,
        words: nn.Module,
        bias_V: Tensor | None = None,
    ) -> None:
        self._layers = [_PackedLayer(layer, number) for number, layer in enumerate(layers)]
        self._norm = norm
        self._vocabulary = PackedLinear.tied(words, bias_V)

    def project(self, memory_BNM: Tensor) -> list[KeyValues]:
        """Keys and values of every layer's cross-attention, (B, H, N, K) each."""
        return [layer.cross.project(memory_BNM) for layer in self._layers if layer.cross is not None]

    def read(self, x_SLD: Tensor, state: DecoderState, mask: Tensor | None) -> Tensor:
        """Run all layers over embedded tokens (S, L, D), for which the state has made room."""
        for layer in self._layers:
            x_SLD = layer(x_SLD, state, mask)
        return x_SLD

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V); the last norm is here."""
        return self._vocabulary(self._norm(x))


class _PackedLayer:
    def __init__(self, layer: PreNormLayer | PreNormCrossLayer, number: int) -> None:
        attention, feed_forward = layer.attention, layer.feed_forward
        self._number = number
        self._num_heads = attention.num_heads
        self._norm = layer.attention_norm
        self._query_key_value = PackedLinear.of(attention.query, attention.key, attention.value)
        self._output = PackedLinear.of(attention.output)
        self.cross = _PackedCross(layer, number) if isinstance(layer, PreNormCrossLayer) else None
        self._feed_forward_norm = layer.feed_forward_norm
        self._expand = PackedLinear.of(feed_forward.expand, gelu=True, approximate=feed_forward.approximate)
        self._contract = PackedLinear.of(feed_forward.contract)

    def __call__(self, x_SLD: Tensor, state: DecoderState, mask: Tensor | None) -> Tensor:
        projected_SLD = self._query_key_value(self._norm(x_SLD))
        projected_SL3HK = projected_SLD.view(*x_SLD.shape[:2], 3, self._num_heads, -1)
        x_SLD = x_SLD + self._output(attend_to_text(projected_SL3HK, self._number, state, mask))
        if self.cross is not None:
            x_SLD = x_SLD + self.cross(x_SLD, state)
        return x_SLD + self._contract(self._expand(self._feed_forward_norm(x_SLD)))


class _PackedCross:
    def __init__(self, layer: PreNormCrossLayer, number: int) -> None:
        attention = layer.cross_attention
        self._number = number
        self._num_heads = attention.num_heads
        self._norm = layer.cross_attention_norm
        self._key_value = PackedLinear.of(attention.key, attention.value)
        self._query = PackedLinear.of(attention.query)
        self._output = PackedLinear.of(attention.output)

    def project(self, memory_BNM: Tensor) -> KeyValues:
        shape = (*memory_BNM.shape[:2], 2, self._num_heads, -1)
        key_value_2BNHK = self._key_value(memory_BNM).view(shape).movedim(2, 0)
        if memory_BNM.is_cuda:  # compiled kernels read either alone, without gaps
            key_value_2BNHK = key_value_2BNHK.contiguous()
        return KeyValues(key_value_2BNHK[0].transpose(1, 2), key_value_2BNHK[1].transpose(1, 2))

    def __call__(self, x_SLD: Tensor, state: DecoderState) -> Tensor:
        return self._output(attend_to_memory(self._query(self._norm(x_SLD)), self._number, state))
