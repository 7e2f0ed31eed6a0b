"""Transformer parts that every stack shares.

Dimensions, one legend for the whole repository (a suffix such as `image_BND` spells a tensor's shape):

    B  batch
    N  visual tokens ([CLS] or mean first, then patches or cells)
    L  text tokens
    H  heads
    K  width of one head
    D  width of the stream (H * K)
    E  joint embedding of image and text
    V  vocabulary
    R  side of the square picture in pixels
    S  sequences being decoded (pictures * sequences of each, such as beams)
    M  rows of a memory that is more than a picture (N + L for mPLUG's answers)

Masks are boolean, True = attend. mPLUG's own additive masks, (1 - mask) * -10000, give the same numbers: in
float32 exp(-10000) is zero. Layers are post-norm, as in BERT; those with the norms in front are in `mplug.prenorm`.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Approximation = Literal["none", "tanh"]
"""How GELU is computed: exactly, by erf, or by Hendrycks and Gimpel's formula with tanh (torch's names)."""


class Attention(nn.Module):
    """Multi-head attention; self-attention, or cross-attention when `memory` is given."""

    def __init__(
        self, width: int, num_heads: int, *, memory_width: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width or width, width)
        self.value = nn.Linear(memory_width or width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self, x_BLD: Tensor, *, memory_BND: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from x to itself or to the memory.

        Args:
            x_BLD: queries (B, L, D).
            memory_BND: keys and values (B, N, D'); None = x itself.
            mask: bool, broadcastable to (B, H, L, N), True = attend; None = everything.

        Returns:
            (B, L, D), after the output projection.
        """
        memory = x_BLD if memory_BND is None else memory_BND
        q_BHLK = self._split_heads(self.query(x_BLD))
        k_BHNK = self._split_heads(self.key(memory))
        v_BHNK = self._split_heads(self.value(memory))
        dropout = self.dropout if self.training else 0.0
        out_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHNK, v_BHNK, attn_mask=mask, dropout_p=dropout)
        output_BLD: Tensor = self.output(out_BHLK.transpose(1, 2).flatten(2))
        return output_BLD

    def _split_heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.view(*x_BLD.shape[:2], self.num_heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, the exact one (erf) unless told otherwise."""

    def __init__(self, width: int, inner_width: int, *, approximate: Approximation = "none") -> None:
        super().__init__()
        self.approximate: Approximation = approximate
        self.expand = nn.Linear(width, inner_width)
        self.contract = nn.Linear(inner_width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        output_BLD: Tensor = self.contract(F.gelu(self.expand(x_BLD), approximate=self.approximate))
        return output_BLD


class BertLayer(nn.Module):
    """Self-attention and feed-forward, each followed by residual and LayerNorm (Devlin et al. 2018)."""

    def __init__(
        self, width: int, num_heads: int, inner_width: int, *, eps: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, inner_width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); mask is bool, broadcastable to (B, H, L, L)."""
        x_BLD = self.attention_norm(x_BLD + self.dropout(self.attention(x_BLD, mask=mask)))
        output_BLD: Tensor = self.feed_forward_norm(x_BLD + self.dropout(self.feed_forward(x_BLD)))
        return output_BLD


class CrossLayer(nn.Module):
    """A `BertLayer` with cross-attention to a memory between its two sub-blocks.

    mPLUG's decoder is made of these, and so are the asymmetric layers of its fusion encoder (section 3.1).
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner_width: int,
        *,
        memory_width: int,
        eps: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.cross_attention = Attention(width, num_heads, memory_width=memory_width, dropout=dropout)
        self.cross_attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, inner_width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BLD: Tensor,
        memory_BND: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend within the text, then to the memory, then feed forward.

        Args:
            x_BLD: the stream (B, L, D).
            memory_BND: what is attended to (B, N, memory_width). Fewer memories than texts are shared: B / M texts in
                a row attend to the same one, whose keys and values are made once.
            mask: bool, broadcastable to (B, H, L, L), True = attend; None = everything.
            memory_mask: bool, broadcastable to (B, H, 1, N), with as many rows as there are memories, True = attend;
                None = everything.

        Returns:
            (B, L, D).
        """
        x_BLD = self.attention_norm(x_BLD + self.dropout(self.attention(x_BLD, mask=mask)))
        # Nothing orders the memory, so texts that share one are so many more rows of queries.
        rows = x_BLD.reshape(memory_BND.shape[0], -1, x_BLD.shape[-1])
        crossed = self.cross_attention(rows, memory_BND=memory_BND, mask=memory_mask)
        x_BLD = self.cross_attention_norm(x_BLD + self.dropout(crossed.view(x_BLD.shape)))
        output_BLD: Tensor = self.feed_forward_norm(x_BLD + self.dropout(self.feed_forward(x_BLD)))
        return output_BLD


def set_dropout(module: nn.Module, share: float) -> None:
    """Change how much all of a module's layers leave out in training."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = share
        elif isinstance(part, Attention):
            part.dropout = share
