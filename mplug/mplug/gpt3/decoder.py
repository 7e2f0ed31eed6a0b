"""The decoder: learned positions, layers with the norms in front, logits by the word embeddings.

Teacher forcing (`forward`) runs the modules, differentiably. Decoding (`start`, then `step` after `step`) computes the
keys and values of every token once; its numbers are those of `forward` up to rounding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mplug.cached_decoder import StepSizes, StepwiseDecoder
from mplug.checkpoints.skeleton import skeleton
from mplug.decoder_state import DecoderState
from mplug.gpt3.config import Gpt3Config
from mplug.prenorm import PackedPreNorm, PreNormLayer
from mplug.quantized_linear import tied_logits


class Gpt3Embeddings(nn.Module):
    """Sum of word and position embeddings."""

    def __init__(self, config: Gpt3Config) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden)
        self.position = nn.Embedding(config.positions, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BL: Tensor, positions: Tensor) -> Tensor:
        """int64 (B, L), and positions (L,) or (B, L) -> (B, L, D)."""
        embedded_BLD: Tensor = self.dropout(self.word(ids_BL) + self.position(positions))
        return embedded_BLD


class Gpt3Decoder(StepwiseDecoder[PackedPreNorm]):
    """Token ids to the next token's logits; see `StepwiseDecoder`.

    Args:
        config: the decoder's shape.
    """

    def __init__(self, config: Gpt3Config) -> None:
        sizes = StepSizes(
            vocab_size=config.vocab_size,
            positions=config.positions,
            eos_id=config.eod_id,
            cached_layers=config.layers,
            heads=config.heads,
            head_width=config.hidden // config.heads,
        )
        super().__init__(sizes)
        self.config = config
        self.embeddings = Gpt3Embeddings(config)
        self.layers = nn.ModuleList(
            PreNormLayer(
                config.hidden,
                config.heads,
                config.ffn,
                eps=config.eps,
                approximate=config.approximate,
                dropout=config.dropout,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Teacher forcing: logits after every token, each seeing the tokens before it and itself.

        Args:
            ids_BL: int64 (B, L), padding behind, where nothing in front of it sees it.

        Returns:
            (B, L, V); differentiable.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        return self.logits(self.states(ids_BL))

    @property
    def words(self) -> nn.Embedding:
        """The table that is the output matrix, too."""
        return self.embeddings.word

    def logits(self, x: Tensor) -> Tensor:
        """States (..., D) of `states` -> (..., V); differentiable."""
        return tied_logits(self.norm(x), self.words)

    def states(self, ids_BL: Tensor) -> Tensor:
        """What `forward` makes logits of, (B, L, D): behind the last layer, in front of the last norm."""
        length = ids_BL.shape[1]
        self._check_length(length)
        mask_LL = torch.ones(length, length, dtype=torch.bool, device=ids_BL.device).tril()
        x_BLD: Tensor = self.embeddings(ids_BL, torch.arange(length, device=ids_BL.device))
        for layer in self.layers:
            x_BLD = layer(x_BLD, mask_LL)
        return x_BLD

    def start(self, num_texts: int) -> DecoderState:
        """Open a state for so many texts, before any token."""
        return self._new_state(self.norm.weight, num_texts)

    def _make_packed(self) -> PackedPreNorm:
        layers = [cast(PreNormLayer, layer) for layer in self.layers]
        return PackedPreNorm(layers, self.norm, self.words)

    def _read_tokens(
        self, ids_SL: Tensor, positions_SL: Tensor, state: DecoderState, mask: Tensor | None
    ) -> Tensor:
        embeddings = self.embeddings
        x_SLD = embeddings.word(ids_SL) + embeddings.position(positions_SL)
        return self._pack().read(x_SLD, state, mask)


def count_parameters(config: Gpt3Config) -> int:
    """Parameters of a decoder, counted on the meta device; the output matrix is the word embeddings, counted once."""
    with skeleton():
        decoder = Gpt3Decoder(config)
    return sum(parameter.numel() for parameter in decoder.parameters())
