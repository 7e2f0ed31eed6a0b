"""mPLUG's retrieval half: two encoders and the joint space where their token 0 meet (ITC)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.config import MplugConfig
from mplug.encoders import Encoders
from mplug.fingerprint import embedding_fingerprint
from mplug.text.tokenizer import WordPieceTokenizer

INITIAL_TEMPERATURE = 0.07  # mPLUG and CLIP start here


class RetrievalModel(Encoders):
    """Image and text encoder with their projections; trainable, and a `ContrastiveModel` for serving.

    Args:
        config: the model's shape.
        tokenizer: the vocabulary that the text encoder was made for.

    Raises:
        ConfigError: the configuration cannot be built, or the vocabulary does not fit it.
    """

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        width = config.text_encoder.hidden
        self.image_proj = nn.Linear(width, config.embed_dim)
        self.text_proj = nn.Linear(width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))
        self._fingerprint: str | None = None

    def project_image(self, image_BND: Tensor) -> Tensor:
        """image_tokens (B, N, D) -> float32 (B, E), L2-normalised."""
        return F.normalize(self.image_proj(image_BND[:, 0]).float(), dim=-1)

    def project_text(self, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Text states (B, L, D) and their mask (B, L) -> float32 (B, E), L2-normalised."""
        return F.normalize(self.text_proj(self.pool_text(text_BLD, mask_BL)).float(), dim=-1)

    def pool_text(self, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Text states (B, L, D) and their mask (B, L) -> what stands for the text (B, D), not yet projected."""
        return _mean(text_BLD, mask_BL) if self.config.text_encoder.mean_pooling else text_BLD[:, 0]

    def embed_images(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> float32 (B, E), L2-normalised."""
        return self.project_image(self.encode_image(pixels))

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 (B, L), bool (B, L) True = attend -> float32 (B, E), L2-normalised."""
        return self.project_text(self.encode_text(ids, mask), mask)

    @property
    def embed_dim(self) -> int:
        """Width E of the joint space."""
        return self.config.embed_dim

    @property
    def fingerprint(self) -> str:
        """sha256 of what makes the vectors; kept from its first reading on, until training goes on.

        `mplug.load` reads it before it casts, so a model in bfloat16 has the fingerprint of its float32 self.
        """
        if self._fingerprint is None or self.training:
            self._fingerprint = embedding_fingerprint(self)
        return self._fingerprint

    def train(self, mode: bool = True) -> RetrievalModel:
        """Set training mode; vectors change in it, so the fingerprint is forgotten."""
        if mode:
            self._fingerprint = None
        super().train(mode)
        return self


def _mean(text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    weight_BL1 = mask_BL[..., None].to(text_BLD.dtype)
    return (text_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)
