"""PLUG's decoder: the encoder's embeddings, layers with the norms in front, logits by the word embeddings alone.

Teacher forcing (`forward`) runs the modules, differentiably. Decoding (`start`, then `step` after `step`) computes the
source's keys and values once for each source and every token's once for each sequence; the reference has no such
cache, and reads the whole text again for every token.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mplug.cached_decoder import CachedDecoder, DecoderSizes
from mplug.decoder_state import DecoderState
from mplug.plug.config import BOS_ID, EOS_ID, PlugConfig
from mplug.prenorm import PackedPreNorm, PreNormCrossLayer
from mplug.quantized_linear import tied_logits
from mplug.text_encoder import TextEmbeddings


class PlugDecoder(CachedDecoder[PackedPreNorm]):
    """Token ids and a memory to the next token's logits; see `CachedDecoder`.

    Args:
        config: the model's shape.
        embeddings: the encoder's; the output matrix is among them.
    """

    def __init__(self, config: PlugConfig, embeddings: TextEmbeddings) -> None:
        sizes = DecoderSizes(
            vocab_size=config.vocab_size,
            positions=config.positions,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            memory_width=config.hidden,
            cached_layers=config.decoder_layers,
            heads=config.heads,
            head_width=config.hidden // config.heads,
        )
        super().__init__(sizes)
        self.embeddings = embeddings
        self.layers = nn.ModuleList(
            PreNormCrossLayer(
                config.hidden,
                config.heads,
                config.ffn,
                memory_width=config.hidden,
                eps=config.eps,
                dropout=config.dropout,
            )
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)

    def forward(self, ids_BL: Tensor, memory_BND: Tensor, *, memory_mask_BN: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits after every token, each seeing the tokens before it and itself.

        Args:
            ids_BL: int64 (B, L), padding behind, where nothing in front of it sees it.
            memory_BND: what is attended to (B, N, D).
            memory_mask_BN: bool (B, N), True = attend; None = everything.

        Returns:
            (B, L, V); differentiable.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        return self.logits(self.states(ids_BL, memory_BND, memory_mask_BN=memory_mask_BN))

    @property
    def words(self) -> nn.Embedding:
        """The table that is the output matrix, too."""
        return self.embeddings.word

    def logits(self, x: Tensor) -> Tensor:
        """States (..., D) of `states` -> (..., V); differentiable."""
        return tied_logits(x, self.words)

    def states(self, ids_BL: Tensor, memory_BND: Tensor, *, memory_mask_BN: Tensor | None = None) -> Tensor:
        """What `forward` makes logits of, (B, L, D): behind the last norm."""
        length = ids_BL.shape[1]
        self._check_length(length)
        mask_LL = torch.ones(length, length, dtype=torch.bool, device=ids_BL.device).tril()
        memory_mask = None if memory_mask_BN is None else memory_mask_BN.bool()[:, None, None]
        x_BLD: Tensor = self.embeddings(ids_BL)
        for layer in self.layers:
            x_BLD = layer(x_BLD, memory_BND, mask=mask_LL, memory_mask=memory_mask)
        output_BLD: Tensor = self.norm(x_BLD)
        return output_BLD

    def _make_packed(self) -> PackedPreNorm:
        layers = [cast(PreNormCrossLayer, layer) for layer in self.layers]
        return PackedPreNorm(layers, self.norm, self.words)

    def _read_tokens(
        self, ids_SL: Tensor, positions_SL: Tensor, state: DecoderState, mask: Tensor | None
    ) -> Tensor:
        embeddings = self.embeddings
        x_SLD = embeddings.place(embeddings.word(ids_SL), positions=positions_SL)
        return self._pack().read(x_SLD, state, mask)
