"""mPLUG's answering half: every module, from picture and question to the memory that answers are decoded from."""

from __future__ import annotations

import torch
from torch import Tensor

from mplug.config import MplugConfig
from mplug.encoders import Encoders
from mplug.fusion_encoder import FusionEncoder
from mplug.task_model import require
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_decoder import DecoderState, TextDecoder


class VqaModel(Encoders):
    """Answers questions about pictures.

    Args:
        config: the model's shape, with a fusion encoder and a text decoder.
        tokenizer: the vocabulary that text encoder and decoder were made for.

    Raises:
        ConfigError: the configuration lacks one of the two or cannot be built.
    """

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.fusion_encoder = FusionEncoder(require(config.fusion_encoder, "fusion_encoder", task="vqa"))
        self.text_decoder = TextDecoder(require(config.text_decoder, "text_decoder", task="vqa"))

    def decoder_memory(self, image_BND: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder attends to: the fused picture, then the fused question.

        Args:
            image_BND: image_tokens (B, N, D), from `encode_image`.
            ids_BL: int64 (B, L), one question for each picture.
            mask_BL: bool (B, L), True = a real token.

        Returns:
            memory (B, N + L, D), and its mask, bool (B, N + L): the whole picture, the question without padding.
        """
        text_BLD = self.encode_text(ids_BL, mask_BL)
        fused_image_BND, fused_text_BLD = self.fusion_encoder(image_BND, text_BLD, text_mask_BL=mask_BL)
        text_mask_BL = mask_BL.bool()
        image_mask_BN = text_mask_BL.new_ones(fused_image_BND.shape[:2])
        memory_BMD = torch.cat([fused_image_BND, fused_text_BLD], dim=1)
        return memory_BMD, torch.cat([image_mask_BN, text_mask_BL], dim=1)

    @torch.no_grad()
    def start_decoding(self, image_BND: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> DecoderState:
        """Open a state for B answers, no token read yet; arguments as in `decoder_memory`."""
        memory_BMD, memory_mask_BM = self.decoder_memory(image_BND, ids_BL, mask_BL)
        return self.text_decoder.start(memory_BMD, memory_mask_BN=memory_mask_BM)
