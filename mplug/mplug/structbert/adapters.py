"""plug_mental's adapters: small BERT layers beside the encoder, each between a projection down and one up.

Each reads the states behind one of the encoder's layers and what the adapter before it gave. The reference's attend to
padding, so that its scores depend on how far a batch is padded; here padding is masked out, which is what the reference
gives for a text alone. `padding_mask=None` is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mplug.layers import BertLayer
from mplug.structbert.config import AdapterConfig


class Adapter(nn.Module):
    """States to states, with a residual around it."""

    def __init__(self, config: AdapterConfig, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.hidden)
        self.layers = nn.ModuleList(
            BertLayer(config.hidden, config.heads, config.ffn, eps=config.eps, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.up = nn.Linear(config.hidden, width)

    def forward(self, x_BLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        inner_BLD = self.down(x_BLD)
        for layer in self.layers:
            inner_BLD = layer(inner_BLD, mask_B11L)
        output_BLD: Tensor = x_BLD + self.up(inner_BLD)
        return output_BLD


class Adapters(nn.Module):
    """All adapters of a model, and the two layers that join what they give to what the encoder gives."""

    def __init__(self, config: AdapterConfig, width: int) -> None:
        super().__init__()
        self.reads = config.states
        self.adapters = nn.ModuleList(Adapter(config, width) for _ in config.states)
        self.adapter_dense = nn.Linear(width, width)
        self.com_dense = nn.Linear(2 * width, width)

    def forward(self, states: Sequence[Tensor], padding_mask: Tensor | None) -> Tensor:
        """Run one adapter after the other.

        Args:
            states: the encoder's, (B, L, D) each: the embeddings, then those behind each layer.
            padding_mask: bool (B, L), True = a real token; None = attend to everything.

        Returns:
            (B, L, D), what the last one gives.
        """
        mask_B11L = None if padding_mask is None else padding_mask.bool()[:, None, None, :]
        adapted_BLD = torch.zeros_like(states[-1])
        for number, adapter in zip(self.reads, self.adapters, strict=True):
            adapted_BLD = adapter(states[number] + adapted_BLD, mask_B11L)
        return adapted_BLD

    def combine(self, states_BLD: Tensor, adapted_BLD: Tensor) -> Tensor:
        """The states of an adapted encoder, (B, L, D)."""
        combined_BLD: Tensor = self.com_dense(torch.cat([states_BLD, adapted_BLD], dim=-1))
        return combined_BLD
