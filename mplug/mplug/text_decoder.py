"""The text decoder: BERT layers with cross-attention, an output matrix tied to the word embeddings.

Teacher forcing (`forward`) runs the modules, differentiably. Decoding (`start`, then `step` after `step`) computes the
memory's keys and values once per image and every token's once per sequence; its numbers are those of `forward` up to
rounding. The sequences of one image are folded into the rows of its queries, so that they share its keys and values.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.cached_decoder import CachedDecoder, DecoderSizes
from mplug.config import TextDecoderConfig, TextEncoderConfig
from mplug.decoder_state import DecoderState
from mplug.decoder_step import PackedDecoder
from mplug.layers import CrossLayer
from mplug.text_encoder import TextEncoder

__all__ = ["DecoderState", "TextDecoder"]


class DecoderEmbeddings(nn.Module):
    """Sum of word, position and type embeddings, then LayerNorm."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden, padding_idx=config.pad_id)
        self.position = nn.Embedding(config.positions, config.hidden)
        self.token_type = nn.Embedding(config.types, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BL: Tensor, positions: Tensor) -> Tensor:
        """int64 (B, L), and positions (L,) or (B, L) -> (B, L, D); every token is of type 0."""
        summed_BLD = self.word(ids_BL) + self.token_type.weight[0] + self.position(positions)
        normed_BLD: Tensor = self.dropout(self.norm(summed_BLD))
        return normed_BLD


class DecoderHead(nn.Module):
    """States to logits: dense, GELU, LayerNorm, then the word embeddings as the output matrix, and a bias.

    BERT's head, which restores masked words of a text encoder as well.
    """

    def __init__(self, config: TextDecoderConfig | TextEncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x_BLD: Tensor, word_VD: Tensor) -> Tensor:
        """(..., D), and the word embeddings (V, D) -> logits (..., V)."""
        return F.linear(self.norm(F.gelu(self.dense(x_BLD))), word_VD, self.bias)


class TextDecoder(CachedDecoder[PackedDecoder]):
    """Token ids and a memory to the next token's logits; see `CachedDecoder`.

    Args:
        config: the decoder's shape.
    """

    def __init__(self, config: TextDecoderConfig) -> None:
        sizes = DecoderSizes(
            vocab_size=config.vocab_size,
            positions=config.positions,
            bos_id=config.bos_id,
            eos_id=config.eos_id,
            memory_width=config.memory_width,
            cached_layers=config.layers,
            heads=config.heads,
            head_width=config.hidden // config.heads,
        )
        super().__init__(sizes)
        self.config = config
        self.embeddings = DecoderEmbeddings(config)
        self.layers = nn.ModuleList(
            CrossLayer(
                config.hidden,
                config.heads,
                config.ffn,
                memory_width=config.memory_width,
                eps=config.eps,
                dropout=config.dropout,
            )
            for _ in range(config.layers)
        )
        self.head = DecoderHead(config)

    def forward(
        self,
        ids_BL: Tensor,
        memory_BND: Tensor,
        *,
        mask_BL: Tensor | None = None,
        memory_mask_BN: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing: logits after every token, each seeing the tokens before it and itself.

        Args:
            ids_BL: int64 (B, L), padding behind.
            memory_BND: what is attended to (B, N, memory_width); or fewer, each for as many texts in a row.
            mask_BL: bool (B, L), True = a real token; None = all are.
            memory_mask_BN: bool, as `memory_BND`, True = attend; None = everything.

        Returns:
            (B, L, V); differentiable.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        x_BLD = self.states(ids_BL, memory_BND, mask_BL=mask_BL, memory_mask_BN=memory_mask_BN)
        return self.logits(x_BLD)

    def logits(self, x: Tensor) -> Tensor:
        """States (..., D) of `states` -> (..., V); differentiable."""
        logits: Tensor = self.head(x, self.embeddings.word.weight)
        return logits

    def states(
        self,
        ids_BL: Tensor,
        memory_BND: Tensor,
        *,
        mask_BL: Tensor | None = None,
        memory_mask_BN: Tensor | None = None,
    ) -> Tensor:
        """What `forward` makes logits of, (B, L, D): the head is most of the work, and padding needs none of it."""
        length = ids_BL.shape[1]
        self._check_length(length)
        mask = torch.ones(length, length, dtype=torch.bool, device=ids_BL.device).tril()
        if mask_BL is not None:
            mask = mask_BL.bool()[:, None, None] & mask
        memory_mask = None if memory_mask_BN is None else memory_mask_BN.bool()[:, None, None]
        x_BLD: Tensor = self.embeddings(ids_BL, torch.arange(length, device=ids_BL.device))
        for layer in self.layers:
            x_BLD = layer(x_BLD, memory_BND, mask=mask, memory_mask=memory_mask)
        return x_BLD

    @property
    def _cross_layers(self) -> list[CrossLayer]:
        return [cast(CrossLayer, layer) for layer in self.layers]

    def _make_packed(self) -> PackedDecoder:
        layers, head = self._cross_layers, self.head
        return PackedDecoder(layers, head.dense, head.norm, (self.embeddings.word.weight, head.bias))

    def _read_tokens(
        self, ids_SL: Tensor, positions_SL: Tensor, state: DecoderState, mask: Tensor | None
    ) -> Tensor:
        return self._pack().read(self.embeddings(ids_SL, positions_SL), state, mask)


def share_words(decoder: TextDecoder, encoder: TextEncoder) -> None:
    """Let the decoder use the text encoder's word embeddings, where its configuration says that they are one table."""
    if decoder.config.shared_words:
        decoder.embeddings.word = encoder.embeddings.word
        decoder.drop_packed()
