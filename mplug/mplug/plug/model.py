"""PLUG: an encoder that reads a text, a decoder that writes another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport
from mplug.decoder_state import DecoderState
from mplug.plug.config import PAD_ID, PlugConfig
from mplug.plug.decoder import PlugDecoder
from mplug.plug.encoder import PlugEncoder
from mplug.plug.heads import PretrainingHeads


class PlugModel(nn.Module):
    """The two networks, which share their embeddings, and the heads of pretraining where they are wanted.

    Args:
        config: their shapes.
        pretraining: hold the heads of pretraining, too, which generation has no use for.
    """

    report: LoadReport
    """What the checkpoint held and what of it was used; empty for a model that was not loaded."""

    def __init__(self, config: PlugConfig, *, pretraining: bool = False) -> None:
        super().__init__()
        self.config = config
        self.report = LoadReport()
        self.encoder = PlugEncoder(config)
        self.decoder = PlugDecoder(config, self.encoder.embeddings)
        self.heads = PretrainingHeads(config) if pretraining else None

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are; bfloat16 where the matrices are quantized."""
        return self.decoder.norm.weight.dtype

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory; the shared embeddings count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self,
        source_BN: Tensor,
        ids_BL: Tensor,
        *,
        mask_BN: Tensor | None = None,
        types_BN: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing: logits after every token of a text that is written from a source.

        Args:
            source_BN: int64 (B, N), padding behind.
            ids_BL: int64 (B, L), from the token that starts a text, padding behind.
            mask_BN: bool (B, N), True = attend; None = to all but padding.
            types_BN: int64 (B, N), types of the source's tokens; None: all are of type 0.

        Returns:
            (B, L, V); differentiable.

        Raises:
            ValueError: a source or a text is longer than there are positions.
        """
        mask_BN = source_BN != PAD_ID if mask_BN is None else mask_BN
        memory_BND = self.encoder(source_BN, mask_BN, types_BN)
        logits_BLV: Tensor = self.decoder(ids_BL, memory_BND, memory_mask_BN=mask_BN)
        return logits_BLV

    def loss(self, source_BN: Tensor, text_BL: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
        """The reference's fine-tuning loss: mean cross-entropy over tokens of which some are padding.

        What counts is decided by the token that is read, not by the one that is to come: behind the end of a text that
        is shorter than others, [PAD] is learnt once.

        Args:
            source_BN: as of `forward`.
            text_BL: int64 (B, L), from the token that starts a text to the one that ends it, padding behind.
            mask_BN: as of `forward`.
        """
        read_BL = text_BL[:, :-1]
        logits_BVL = self(source_BN, read_BL, mask_BN=mask_BN).float().transpose(1, 2)
        losses_BL = F.cross_entropy(logits_BVL, text_BL[:, 1:], reduction="none")
        return losses_BL[read_BL != PAD_ID].mean()

    @torch.no_grad()
    def start_decoding(self, source_BN: Tensor) -> DecoderState:
        """Encode sources as one batch: a state that has read no token of a text yet.

        Args:
            source_BN: int64 (B, N), padding behind.
        """
        mask_BN = source_BN != PAD_ID
        return self.decoder.start(self.encoder(source_BN, mask_BN), memory_mask_BN=mask_BN)
