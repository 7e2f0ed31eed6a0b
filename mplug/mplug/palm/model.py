"""PALM 2.0: an encoder that reads a text, a decoder that writes another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport
from mplug.decoder_state import DecoderState
from mplug.palm.config import PalmConfig
from mplug.palm.decoder import PalmDecoder
from mplug.palm.losses import plain_loss, smoothed_loss
from mplug.text_encoder import TextEncoder


class PalmModel(nn.Module):
    """The two networks.

    Args:
        config: their shapes.
    """

    report: LoadReport
    """What the checkpoint held and what of it was used; empty for a model that was not loaded."""

    def __init__(self, config: PalmConfig) -> None:
        super().__init__()
        self.config = config
        self.report = LoadReport()
        self.encoder = TextEncoder(config.encoder, first_position=config.first_position)
        self.decoder = PalmDecoder(config)

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.bias.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are; bfloat16 where the matrices are quantized."""
        return self.decoder.bias.dtype

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, source_BN: Tensor, ids_BL: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits after every token of a text that is written from a source.

        Args:
            source_BN: int64 (B, N), padding behind.
            ids_BL: int64 (B, L), from the token that starts a text, padding behind.
            mask_BN: bool (B, N), True = what the encoder attends to; None = all but padding. The decoder never attends
                to padding, and to nothing else less, whatever this says.

        Returns:
            (B, L, V); differentiable.

        Raises:
            ValueError: a source or a text is longer than there are positions.
        """
        memory_BND, is_real_BN = self.encode(source_BN, mask_BN)
        logits_BLV: Tensor = self.decoder(ids_BL, memory_BND, memory_mask_BN=is_real_BN)
        return logits_BLV

    def loss(self, source_BN: Tensor, text_BL: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
        """The reference's training loss, a sum over tokens; see `mplug.palm.losses`.

        Args:
            source_BN: as of `forward`.
            text_BL: int64 (B, L), from the token that starts a text to the one that ends it, padding behind.
            mask_BN: as of `forward`.
        """
        logits_BLV, labels_BL = self(source_BN, text_BL[:, :-1], mask_BN=mask_BN), text_BL[:, 1:]
        pad_id, smoothing = self.config.decoder.pad_id, self.config.label_smoothing
        if smoothing == 0:
            return plain_loss(logits_BLV, labels_BL, pad_id=pad_id)
        return smoothed_loss(logits_BLV, labels_BL, pad_id=pad_id, smoothing=smoothing)

    def encode(self, source_BN: Tensor, mask_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the decoder attends to (B, N, D), and where, bool (B, N); arguments as of `forward`."""
        is_real_BN = source_BN != self.config.decoder.pad_id
        memory_BND: Tensor = self.encoder(source_BN, is_real_BN if mask_BN is None else mask_BN)
        return memory_BND, is_real_BN

    @torch.no_grad()
    def start_decoding(self, source_BN: Tensor) -> DecoderState:
        """Encode sources as one batch: a state that has read no token of a text yet.

        Args:
            source_BN: int64 (B, N), padding behind.
        """
        memory_BND, is_real_BN = self.encode(source_BN)
        return self.decoder.start(memory_BND, memory_mask_BN=is_real_BN)
