"""The two encoders that every mPLUG task builds on, without heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport
from mplug.config import MplugConfig
from mplug.errors import ConfigError
from mplug.image_encoder import ImageEncoder
from mplug.preprocess import PreprocessConfig
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_encoder import TextEncoder


class Encoders(nn.Module):
    """Image and text encoder, with the tokenizer that the text encoder was made for.

    The methods are differentiable; who only serves wraps calls in `torch.inference_mode()`.

    Args:
        config: the model's shape.
        tokenizer: its vocabulary may be smaller than the embedding table, never larger.

    Raises:
        ConfigError: the configuration cannot be built, or the vocabulary does not fit it.
    """

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__()
        if len(tokenizer.vocab) > config.text_encoder.vocab_size:
            raise ConfigError(
                f"the vocabulary has {len(tokenizer.vocab)} pieces, text_encoder.vocab_size is "
                f"{config.text_encoder.vocab_size}; use the vocab.txt that the weights were trained with"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.image_encoder = ImageEncoder(config.image_encoder, config.preprocess)
        self.text_encoder = TextEncoder(config.text_encoder)
        self.report = LoadReport()
        """What the checkpoint held and what of it was used; empty for a model that was not loaded."""

    def encode_image(self, pixels_B3RR: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> image_tokens (B, N, D)."""
        image_BND: Tensor = self.image_encoder(pixels_B3RR)
        return image_BND

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """int64 (B, L), bool (B, L) True = attend -> text states (B, L, D)."""
        text_BLD: Tensor = self.text_encoder(ids_BL, mask_BL)
        return text_BLD

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def licence(self) -> str:
        """The configuration's licence."""
        return self.config.licence

    @property
    def preprocess(self) -> PreprocessConfig:
        """Size and normalisation of pixels."""
        return self.config.preprocess

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text_encoder.embeddings.word.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return self.text_encoder.embeddings.word.weight.dtype

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory."""
        return sum(parameter.numel() for parameter in self.parameters())
