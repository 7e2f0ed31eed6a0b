"""mPLUG's matching half: both encoders, fusion, and the head that says whether a text fits a picture (ITM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mplug.config import MplugConfig
from mplug.encoders import Encoders
from mplug.fusion_encoder import FusionEncoder
from mplug.task_model import require
from mplug.text.tokenizer import WordPieceTokenizer


class RerankModel(Encoders):
    """Scores pairs of picture and text.

    Args:
        config: the model's shape, with a fusion encoder.
        tokenizer: the vocabulary that the text encoder was made for.

    Raises:
        ConfigError: the configuration has no fusion encoder or cannot be built.
    """

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        fusion = require(config.fusion_encoder, "fusion_encoder", task="rerank")
        self.fusion_encoder = FusionEncoder(fusion)
        self.itm_head = nn.Linear(fusion.hidden, 2)

    def itm_logits(self, image_BND: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Logits of "does not match" and "matches"; arguments as in `itm_scores`.

        Returns:
            (B, 2), differentiable.
        """
        text_BLD = self.encode_text(ids_BL, mask_BL)
        _, fused_BLD = self.fusion_encoder(image_BND, text_BLD, text_mask_BL=mask_BL)
        logits_B2: Tensor = self.itm_head(fused_BLD[:, 0])
        return logits_B2

    def itm_scores(self, image_BND: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Probability that picture and text of each row match.

        Args:
            image_BND: image_tokens (B, N, D), from `encode_image`.
            ids_BL: int64 (B, L), one text for each picture.
            mask_BL: bool (B, L), True = a real token.

        Returns:
            float32 (B,), the second of the softmax over both logits.
        """
        return torch.softmax(self.itm_logits(image_BND, ids_BL, mask_BL).float(), dim=-1)[:, 1]
