"""Token ids to states and to the vector that stands for a text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mplug.structbert.adapters import Adapters
from mplug.structbert.config import StructBertConfig
from mplug.text_encoder import TextEncoder


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A batch of texts."""

    states_BLD: Tensor
    """Behind the last layer."""
    pooled_BD: Tensor
    """Of [CLS], behind the pooler; plug_mental's adapters are in it."""


class PooledEncoder(nn.Module):
    """BERT with its pooler, and plug_mental's adapters where the configuration has them.

    Args:
        config: the model's shape.
    """

    def __init__(self, config: StructBertConfig) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(config.encoder)
        self.pooler = nn.Linear(config.encoder.hidden, config.encoder.hidden)
        self.adapters = Adapters(config.adapters, config.encoder.hidden) if config.adapters else None

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, types_BL: Tensor | None = None) -> Encoded:
        """Encode a padded batch; arguments and errors as `TextEncoder`'s."""
        return self.encode_words(self.text_encoder.embeddings.word(ids_BL), mask_BL, types_BL)

    def encode_words(
        self,
        words_BLD: Tensor,
        mask_BL: Tensor,
        types_BL: Tensor | None = None,
        *,
        adapt_padding: bool = False,
    ) -> Encoded:
        """Encode word embeddings, such as those of `forward` with noise on them.

        Args:
            words_BLD: in place of rows of the table (B, L, D).
            mask_BL: bool (B, L), True = a real token.
            types_BL: int64 (B, L); None: every token is of type 0.
            adapt_padding: let plug_mental's adapters attend to padding, as the reference does.
        """
        embedded_BLD = self.text_encoder.embeddings.place(words_BLD, types_BL)
        if self.adapters is None:
            states_BLD = self.text_encoder.encode(embedded_BLD, mask_BL)
            return Encoded(states_BLD, self._pool(states_BLD))
        states = self.text_encoder.states(embedded_BLD, mask_BL)
        adapted_BLD = self.adapters(states, None if adapt_padding else mask_BL)
        pooled_BD = self.adapters.adapter_dense(self._pool(states[-1]) + adapted_BLD[:, 0])
        return Encoded(self.adapters.combine(states[-1], adapted_BLD), pooled_BD)

    def _pool(self, states_BLD: Tensor) -> Tensor:
        return torch.tanh(self.pooler(states_BLD[:, 0]))
