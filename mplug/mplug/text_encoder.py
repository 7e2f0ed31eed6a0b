"""The text encoder: BERT's embeddings and its first layers, no pooler."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mplug.config import TextEncoderConfig
from mplug.layers import BertLayer


class TextEmbeddings(nn.Module):
    """Sum of word, position and type embeddings, then LayerNorm."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden, padding_idx=config.pad_id)
        self.position = nn.Embedding(config.positions, config.hidden)
        self.token_type = nn.Embedding(config.types, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """int64 (B, L) -> (B, L, D); every token is of type 0."""
        positions_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        types_L = torch.zeros_like(positions_L)
        summed_BLD = self.word(ids_BL) + self.token_type(types_L) + self.position(positions_L)
        normed_BLD: Tensor = self.dropout(self.norm(summed_BLD))
        return normed_BLD


class TextEncoder(nn.Module):
    """Token ids to text states."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(
            BertLayer(config.hidden, config.heads, config.ffn, eps=config.eps, dropout=config.dropout)
            for _ in range(config.layers)
        )

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Encode a padded batch of texts.

        Args:
            ids_BL: int64 (B, L), each row [CLS] pieces [SEP] and then padding.
            mask_BL: bool (B, L), True = a real token.

        Returns:
            (B, L, D); token 0 stands for the text.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        if ids_BL.shape[1] > self.config.positions:
            raise ValueError(
                f"texts are {ids_BL.shape[1]} tokens long; this encoder has {self.config.positions} "
                "positions: truncate them"
            )
        text_BLD: Tensor = self.embeddings(ids_BL)
        mask_B11L = mask_BL.bool()[:, None, None, :]
        for layer in self.layers:
            text_BLD = layer(text_BLD, mask_B11L)
        return text_BLD
