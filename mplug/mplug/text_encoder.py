"""The text encoder: BERT's embeddings and its layers, or the first of them, no pooler."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mplug.config import TextEncoderConfig
from mplug.layers import BertLayer


class TextEmbeddings(nn.Module):
    """Sum of word, position and type embeddings, then LayerNorm.

    Args:
        config: sizes of the three tables.
        first_position: row of the position table where a text begins; rows before it are never read (RoBERTa's).
    """

    def __init__(self, config: TextEncoderConfig, *, first_position: int = 0) -> None:
        super().__init__()
        self.first_position = first_position
        self.word = nn.Embedding(config.vocab_size, config.hidden, padding_idx=config.pad_id)
        self.position = nn.Embedding(config.positions, config.hidden)
        self.token_type = nn.Embedding(config.types, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BL: Tensor, types_BL: Tensor | None = None) -> Tensor:
        """Token ids, and their types where not all are of type 0, int64 (B, L) each -> (B, L, D)."""
        return self.place(self.word(ids_BL), types_BL)

    def place(
        self, words_BLD: Tensor, types_BL: Tensor | None = None, *, positions: Tensor | None = None
    ) -> Tensor:
        """Add positions and types to word embeddings.

        Args:
            words_BLD: rows of the table, or what stands for them (B, L, D).
            types_BL: int64 (B, L); None: every token is of type 0.
            positions: int64 (L,) or (B, L), below those that the table has; None: 0, 1, 2...

        Returns:
            (B, L, D).

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        if positions is None:
            length, room = words_BLD.shape[1], self.position.num_embeddings - self.first_position
            if length > room:
                raise ValueError(
                    f"texts are {length} tokens long; this encoder has {room} positions: truncate them"
                )
            positions = torch.arange(length, device=words_BLD.device)
        types = torch.zeros_like(positions) if types_BL is None else types_BL
        summed_BLD = words_BLD + self.token_type(types) + self.position(positions + self.first_position)
        normed_BLD: Tensor = self.dropout(self.norm(summed_BLD))
        return normed_BLD


class TextEncoder(nn.Module):
    """Token ids to text states; arguments as of `TextEmbeddings`."""

    def __init__(self, config: TextEncoderConfig, *, first_position: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config, first_position=first_position)
        self.layers = nn.ModuleList(
            BertLayer(config.hidden, config.heads, config.ffn, eps=config.eps, dropout=config.dropout)
            for _ in range(config.layers)
        )

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, types_BL: Tensor | None = None) -> Tensor:
        """Encode a padded batch of texts.

        Args:
            ids_BL: int64 (B, L), each row [CLS] pieces [SEP] and then padding.
            mask_BL: bool (B, L), True = a real token.
            types_BL: int64 (B, L), types of the tokens; None: all are of type 0.

        Returns:
            (B, L, D); token 0 stands for the text.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        return self.encode(self.embeddings(ids_BL, types_BL), mask_BL)

    def encode(self, embedded_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Run the layers over what `embeddings` gave, (B, L, D) -> (B, L, D)."""
        mask_B11L = mask_BL.bool()[:, None, None, :]
        for layer in self.layers:
            embedded_BLD = layer(embedded_BLD, mask_B11L)
        return embedded_BLD

    def states(self, embedded_BLD: Tensor, mask_BL: Tensor) -> list[Tensor]:
        """As `encode`, with what lies between: the embeddings, then the states behind each layer."""
        mask_B11L = mask_BL.bool()[:, None, None, :]
        states = [embedded_BLD]
        for layer in self.layers:
            states.append(layer(states[-1], mask_B11L))
        return states
