"""The two encoders that retrieval, reranking and answering build on, without heads."""

from __future__ import annotations

from torch import Tensor

from mplug.config import MplugConfig
from mplug.image_encoder import ImageEncoder
from mplug.task_model import TaskModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_encoder import TextEncoder


class Encoders(TaskModel):
    """Image and text encoder, with the tokenizer that the text encoder was made for.

    Args:
        config: the model's shape.
        tokenizer: its vocabulary may be smaller than the embedding table, never larger.

    Raises:
        ConfigError: the configuration cannot be built, or the vocabulary does not fit it.
    """

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.image_encoder = ImageEncoder(config.image_encoder, config.preprocess)
        self.text_encoder = TextEncoder(config.text_encoder)

    def encode_image(self, pixels_B3RR: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> image_tokens (B, N, D)."""
        image_BND: Tensor = self.image_encoder(pixels_B3RR)
        return image_BND

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """int64 (B, L), bool (B, L) True = attend -> text states (B, L, D)."""
        text_BLD: Tensor = self.text_encoder(ids_BL, mask_BL)
        return text_BLD
