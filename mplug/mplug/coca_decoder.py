"""CoCa's text half, by open_clip's weights, on our engine: a causal tower, then layers that look at the picture.

The tower's class token stands behind the text, where no other token sees it, so decoding leaves it out.

Keys and values of the tower's and the decoder's self-attentions lie in one `DecoderState`, the tower's first; the
picture's are made once per image. One quirk of open_clip is kept: its tower masks padding, id 0, which is a token like
others ("!" inside a word). What follows such a token in a text, a defect that published weights were trained with, is
never attended to by the tower; with `correct_cls_mask` it is the token itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mplug.cached_decoder import CachedDecoder, DecoderSizes
from mplug.decoder_state import DecoderState
from mplug.decoder_step import attend_to_memory, attend_to_text
from mplug.packed_linear import PackedLinear
from mplug_kernels.cached import KeyValues


class CocaDecoder(CachedDecoder["PackedCoca"]):
    """Text tower and multimodal decoder of an open_clip CoCa; see `CachedDecoder`.

    Args:
        text: open_clip's `TextTransformer`, causal, with a class token and ordinary blocks.
        multimodal: its `MultimodalTransformer`, of the same width and heads.
        bos_id: token id that starts a text.
        eos_id: token id that ends a text.
    """

    # Any, here and below: open_clip has no types.
    def __init__(self, text: Any, multimodal: Any, *, bos_id: int, eos_id: int) -> None:
        width, vocab_size = multimodal.text_projection.shape
        heads = text.heads
        sizes = DecoderSizes(
            vocab_size=vocab_size,
            positions=min(text.context_length, multimodal.context_length),
            bos_id=bos_id,
            eos_id=eos_id,
            memory_width=width,
            cached_layers=len(text.transformer.resblocks) + len(multimodal.resblocks),
            heads=heads,
            head_width=width // heads,
        )
        super().__init__(sizes)
        self.text = text
        self.multimodal = multimodal

    def forward(self, ids_BL: Tensor, memory_BND: Tensor) -> Tensor:
        """Teacher forcing by open_clip's modules: int64 (B, L), (B, N, D) -> logits (B, L, V); differentiable."""
        _, tokens_BLD = self.text(ids_BL)
        logits_BLV: Tensor = self.multimodal(memory_BND, tokens_BLD)
        return logits_BLV

    def _make_packed(self) -> PackedCoca:
        return PackedCoca(self.text, self.multimodal)

    def _read_tokens(
        self, ids_SL: Tensor, positions_SL: Tensor, state: DecoderState, mask: Tensor | None
    ) -> Tensor:
        text = self.text
        x_SLD = text.token_embedding(ids_SL) + text.positional_embedding[positions_SL]
        self._hide(ids_SL, state)
        return self._pack().read(x_SLD, state, mask)

    def _hide(self, ids_SL: Tensor, state: DecoderState) -> None:
        """Note which slots the tower's mask hides, among the newest and the one that comes next."""
        padding_SL = ids_SL == self.text.pad_id
        last_S1 = torch.full_like(ids_SL[:, :1], ids_SL.shape[1] - 1)
        if state.valid_ST is not None:  # filled up to the longest prompt, with whatever id
            real_SL = state.valid_ST[:, -ids_SL.shape[1] :]
            padding_SL, last_S1 = padding_SL & real_SL, real_SL.sum(1, keepdim=True) - 1
        hidden_SU = state.hidden_SU
        if hidden_SU is None:
            if not bool(padding_SL.any()):
                return
            hidden_SU = padding_SL.new_zeros(len(ids_SL), state.used - ids_SL.shape[1] + 1)
        if self.text.correct_cls_mask:
            parts = [hidden_SU[:, :-1], padding_SL, torch.zeros_like(padding_SL[:, :1])]
        else:
            parts = [hidden_SU, padding_SL[:, :-1], padding_SL.gather(1, last_S1)]
        state.hidden_SU = torch.cat(parts, dim=1)


class PackedCoca:
    """A copy of both halves' matrices, laid out for decoding.

    Args:
        text: as for `CocaDecoder`.
        multimodal: likewise.
    """

    def __init__(self, text: Any, multimodal: Any) -> None:
        towers = len(text.transformer.resblocks)
        self._tower = [_PackedBlock(block, number) for number, block in enumerate(text.transformer.resblocks)]
        self._blocks = [
            _PackedBlock(block, towers + place) for place, block in enumerate(multimodal.resblocks)
        ]
        self._crosses = [_PackedCross(block, number) for number, block in enumerate(multimodal.cross_attn)]
        self._norm = multimodal.ln_final
        matrix_VD = multimodal.text_projection.T.contiguous()
        self._vocabulary = PackedLinear([matrix_VD], [matrix_VD.new_zeros(len(matrix_VD))])

    def project(self, memory_BNM: Tensor) -> list[KeyValues]:
        """Keys and values of every layer's cross-attention, (B, H, N, K) each."""
        return [cross.project(memory_BNM) for cross in self._crosses]

    def read(self, x_SLD: Tensor, state: DecoderState, mask: Tensor | None) -> Tensor:
        """Run all layers over embedded tokens (S, L, D), for which the state has made room."""
        tower_mask = mask
        if state.hidden_SU is not None:
            seen_S11T = ~state.hidden_SU[:, None, None, : state.used]
            tower_mask = seen_S11T if mask is None else mask & seen_S11T
        for block in self._tower:
            x_SLD = block(x_SLD, state, tower_mask)
        for block, cross in zip(self._blocks, self._crosses, strict=True):
            x_SLD = cross(block(x_SLD, state, mask), state)
        return x_SLD

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self._vocabulary(self._norm(x))


class _FeedForward:
    """The second half of open_clip's blocks."""

    def __init__(self, block: Any) -> None:
        activation = block.mlp.gelu
        is_exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
        self._norm = block.ln_2
        self._expand = PackedLinear.of(block.mlp.c_fc, gelu=is_exact)
        self._activation = nn.Identity() if is_exact else activation
        self._contract = PackedLinear.of(block.mlp.c_proj)
        self._scale = block.ls_2

    def __call__(self, x_SLD: Tensor) -> Tensor:
        expanded_SLF = self._activation(self._expand(self._norm(x_SLD)))
        output_SLD: Tensor = x_SLD + self._scale(self._contract(expanded_SLF))
        return output_SLD


class _PackedBlock:
    def __init__(self, block: Any, number: int) -> None:
        attention = block.attn
        self._number = number
        self._num_heads = attention.num_heads
        self._norm = block.ln_1
        self._query_key_value = PackedLinear([attention.in_proj_weight], [attention.in_proj_bias])
        self._output = PackedLinear.of(attention.out_proj)
        self._scale = block.ls_1
        self._feed_forward = _FeedForward(block)

    def __call__(self, x_SLD: Tensor, state: DecoderState, mask: Tensor | None) -> Tensor:
        projected_SLD = self._query_key_value(self._norm(x_SLD))
        projected_SL3HK = projected_SLD.view(*x_SLD.shape[:2], 3, self._num_heads, -1)
        attended_SLD = self._output(attend_to_text(projected_SL3HK, self._number, state, mask))
        return self._feed_forward(x_SLD + self._scale(attended_SLD))


class _PackedCross:
    def __init__(self, block: Any, number: int) -> None:
        attention = block.attn
        query_width = attention.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self._number = number
        self._num_heads = attention.num_heads
        self._norm, self._memory_norm = block.ln_1, block.ln_1_kv
        self._query = PackedLinear([weight[:query_width]], [bias[:query_width]])
        self._key_value = PackedLinear([weight[query_width:]], [bias[query_width:]])
        self._output = PackedLinear.of(attention.out_proj)
        self._scale = block.ls_1
        self._feed_forward = _FeedForward(block)

    def project(self, memory_BNM: Tensor) -> KeyValues:
        shape = (*memory_BNM.shape[:2], 2, self._num_heads, -1)
        projected_BND = self._key_value(self._memory_norm(memory_BNM))
        key_value_2BHNK = projected_BND.view(shape).permute(2, 0, 3, 1, 4)
        return KeyValues(key_value_2BHNK[0], key_value_2BHNK[1])

    def __call__(self, x_SLD: Tensor, state: DecoderState) -> Tensor:
        attended_SLD = self._output(attend_to_memory(self._query(self._norm(x_SLD)), self._number, state))
        return self._feed_forward(x_SLD + self._scale(attended_SLD))
