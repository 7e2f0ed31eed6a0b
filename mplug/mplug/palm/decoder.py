"""PALM's decoder: sinusoidal positions, layers with the norms in front, logits by its own word embeddings and a bias.

Teacher forcing (`forward`) runs the modules, differentiably. Decoding (`start`, then `step` after `step`) computes the
source's keys and values once for each source and every token's once for each sequence.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from mplug.cached_decoder import CachedDecoder, DecoderSizes
from mplug.decoder_state import DecoderState
from mplug.palm.config import PalmConfig
from mplug.prenorm import PackedPreNorm, PreNormCrossLayer
from mplug.quantized_linear import tied_logits

MASKED = -1e18
"""What the reference puts in place of a masked score: finite, so that a row of nothing else is a row of equals."""


class PalmDecoder(CachedDecoder[PackedPreNorm]):
    """Token ids and a memory to the next token's logits; see `CachedDecoder`.

    A [PAD] that a sequence goes on from sees all before it and itself alike, whatever they are: in the reference its
    scores are all masked by the same number. So it is in steps alone; teacher forcing masks paddings for all others.

    Args:
        config: the model's shape.
    """

    def __init__(self, config: PalmConfig) -> None:
        decoder, width = config.decoder, config.encoder.hidden
        sizes = DecoderSizes(
            vocab_size=config.encoder.vocab_size,
            positions=decoder.positions,
            bos_id=decoder.bos_id,
            eos_id=decoder.eos_id,
            memory_width=width,
            cached_layers=decoder.layers,
            heads=decoder.heads,
            head_width=width // decoder.heads,
        )
        super().__init__(sizes)
        self.pad_id = decoder.pad_id
        self.word = nn.Embedding(config.encoder.vocab_size, width, padding_idx=decoder.pad_id)
        self.dropout = nn.Dropout(decoder.dropout)
        self.layers = nn.ModuleList(
            PreNormCrossLayer(
                width,
                decoder.heads,
                decoder.ffn,
                memory_width=width,
                eps=decoder.eps,
                approximate="tanh",
                dropout=decoder.dropout,
            )
            for _ in range(decoder.layers)
        )
        self.norm = nn.LayerNorm(width, eps=decoder.eps)
        self.bias = nn.Parameter(torch.zeros(config.encoder.vocab_size))

    def forward(self, ids_BL: Tensor, memory_BND: Tensor, *, memory_mask_BN: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits after every token, each seeing the tokens before it and itself, but no padding.

        Args:
            ids_BL: int64 (B, L), padding behind.
            memory_BND: what is attended to (B, N, D).
            memory_mask_BN: bool (B, N), True = attend; None = everything.

        Returns:
            (B, L, V); differentiable.

        Raises:
            ValueError: the texts are longer than the decoder has positions.
        """
        return self.logits(self.states(ids_BL, memory_BND, memory_mask_BN=memory_mask_BN))

    @property
    def words(self) -> nn.Embedding:
        """The table that is the output matrix, too."""
        return self.word

    def logits(self, x: Tensor) -> Tensor:
        """States (..., D) of `states` -> (..., V); differentiable."""
        return tied_logits(x, self.words, self.bias)

    def states(self, ids_BL: Tensor, memory_BND: Tensor, *, memory_mask_BN: Tensor | None = None) -> Tensor:
        """What `forward` makes logits of, (B, L, D): behind the last norm."""
        length = ids_BL.shape[1]
        self._check_length(length)
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=ids_BL.device).tril()
        mask = causal_LL & (ids_BL != self.pad_id)[:, None, None]
        memory_mask = None if memory_mask_BN is None else memory_mask_BN.bool()[:, None, None]
        x_BLD = self.dropout(self._embed(ids_BL, torch.arange(length, device=ids_BL.device)))
        for layer in self.layers:
            x_BLD = layer(x_BLD, memory_BND, mask=mask, memory_mask=memory_mask)
        output_BLD: Tensor = self.norm(x_BLD)
        return output_BLD

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        words: Tensor = self.word(ids)
        width = words.shape[-1]
        return words * math.sqrt(width) + sinusoids(positions, width).to(words.dtype)

    def _make_packed(self) -> PackedPreNorm:
        layers = [cast(PreNormCrossLayer, layer) for layer in self.layers]
        return PackedPreNorm(layers, self.norm, self.words, self.bias)

    def _read_tokens(
        self, ids_SL: Tensor, positions_SL: Tensor, state: DecoderState, mask: Tensor | None
    ) -> Tensor:
        is_pad_SL = ids_SL == self.pad_id
        if bool(is_pad_SL.any()):
            mask = _blind(is_pad_SL, mask, state)
        return self._pack().read(self._embed(ids_SL, positions_SL), state, mask)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Vectors of positions (Vaswani et al. 2017, section 3.5), sines at even places, cosines at odd ones.

    Args:
        positions: of any shape.
        width: D, even.

    Returns:
        float32 (..., D).
    """
    places = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None].float() * torch.exp(places * -(math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def _blind(is_pad_SL: Tensor, mask: Tensor | None, state: DecoderState) -> Tensor:
    """The mask to be added to scores that leaves a [PAD] no difference between what it may see."""
    dtype = state.cache_TC2SHK.dtype
    shape = (*is_pad_SL.shape, state.used)
    allowed_SLT = is_pad_SL.new_ones(shape) if mask is None else mask.expand(shape[0], 1, *shape[1:])[:, 0]
    # Scores are lost in the rounding of so large a number; float16 has none, there they nearly are.
    same = max(MASKED, torch.finfo(dtype).min)
    added_SLT = torch.zeros(shape, dtype=dtype, device=is_pad_SL.device)
    added_SLT.masked_fill_(is_pad_SL[..., None], same).masked_fill_(~allowed_SLT, -torch.inf)
    return added_SLT[:, None]
