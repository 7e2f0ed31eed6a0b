"""The fusion encoder: mPLUG's skip-connected network (arXiv 2205.12005, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mplug.config import FusionEncoderConfig
from mplug.layers import BertLayer, CrossLayer


class FusionEncoder(nn.Module):
    """Image tokens and text states to fused image tokens and fused text states.

    An asymmetric layer lets the text attend to itself and then to the image; the image does not move. A connected
    layer attends over both as one sequence, image first; what it makes of the image is added to the image that
    came in. With mPLUG-large's 6 layers and a stride of 6 no layer is connected, and the image leaves as it came.
    """

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(self._layer(number) for number in range(config.layers))

    def forward(self, image_BND: Tensor, text_BLD: Tensor, *, text_mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch of pairs.

        Args:
            image_BND: image_tokens (B, N, D), all of them attended to; not changed.
            text_BLD: states of the text encoder (B, L, D).
            text_mask_BL: bool (B, L), True = a real token.

        Returns:
            image states (B, N, D) and text states (B, L, D); token 0 of the text stands for the pair.
        """
        text_mask_B11L = text_mask_BL.bool()[:, None, None, :]
        for layer in self.layers:
            if isinstance(layer, CrossLayer):
                text_BLD = layer(text_BLD, image_BND, mask=text_mask_B11L)
            else:
                image_BND, text_BLD = _connect(layer, image_BND, text_BLD, text_mask_B11L)
        return image_BND, text_BLD

    def raw_projections(self) -> list[nn.Module]:
        """Projections that reranking reads as matrices (`mplug.itm_scoring`): of the image, and of the last layer."""
        attentions = [layer.cross_attention for layer in self.layers if isinstance(layer, CrossLayer)]
        last = self.layers[-1]
        if isinstance(last, BertLayer):
            attentions.append(last.attention)
        return [part for each in attentions for part in (each.query, each.key, each.value)]

    def _layer(self, number: int) -> BertLayer | CrossLayer:
        c = self.config
        if number in c.connected_layers:
            return BertLayer(c.hidden, c.heads, c.ffn, eps=c.eps, dropout=c.dropout)
        return CrossLayer(c.hidden, c.heads, c.ffn, memory_width=c.memory_width, eps=c.eps, dropout=c.dropout)


def _connect(
    layer: nn.Module, image_BND: Tensor, text_BLD: Tensor, text_mask_B11L: Tensor
) -> tuple[Tensor, Tensor]:
    count, length = image_BND.shape[1], text_BLD.shape[1]
    image_mask_B11N = text_mask_B11L.new_ones(len(image_BND), 1, 1, count)
    mask_B11M = torch.cat([image_mask_B11N, text_mask_B11L], dim=-1)
    joint_BMD = layer(torch.cat([image_BND, text_BLD], dim=1), mask_B11M)
    moved_BND, text_BLD = joint_BMD.split([count, length], dim=1)
    # A new tensor: the reference adds in place, which changes the caller's tokens and breaks the gradient.
    return image_BND + moved_BND, text_BLD
