"""What every form of cross-attention takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class CrossWeights:
    """Projections of one cross-attention layer, as `nn.Linear` stores them: (out, in).

    The output projection is not here: every form returns the heads' joined context, before it.

    Raises:
        ValueError: shapes that disagree, or heads that do not divide the width.
    """

    query_DD: Tensor
    """Stream to queries."""
    query_bias_D: Tensor
    key_DM: Tensor
    """Memory to keys."""
    key_bias_D: Tensor
    """Adds the same number to all scores of a query, so no form needs it; kept for the reference."""
    value_DM: Tensor
    """Memory to values."""
    value_bias_D: Tensor
    num_heads: int

    def __post_init__(self) -> None:
        width, memory_width = self.key_DM.shape
        wanted = {
            "query_DD": (width, width),
            "query_bias_D": (width,),
            "key_bias_D": (width,),
            "value_DM": (width, memory_width),
            "value_bias_D": (width,),
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} is {tuple(getattr(self, name).shape)}; with key_DM it must be {shape}"
                )
        if self.num_heads < 1 or width % self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads}; it must divide the width {width}")

    @property
    def head_width(self) -> int:
        """Width K of one head."""
        return self.key_DM.shape[0] // self.num_heads


def sequences_per_memory(x_SLD: Tensor, memories: int) -> int:
    """How many sequences share one memory.

    Raises:
        ValueError: the sequences cannot be shared out evenly.
    """
    if memories < 1 or x_SLD.shape[0] % memories:
        raise ValueError(f"{x_SLD.shape[0]} sequences cannot be shared out evenly among {memories} memories")
    return x_SLD.shape[0] // memories


def silence_empty(context_BTD: Tensor, memory_mask_BN: Tensor | None) -> Tensor:
    """Zeros where a memory has no row to attend to, whatever softmax made of it; others as they are."""
    if memory_mask_BN is None:
        return context_BTD
    empty_B11 = ~memory_mask_BN.any(dim=1)[:, None, None]
    return context_BTD.masked_fill(empty_B11, 0)


def prefix_lengths(memory_mask_BN: Tensor) -> tuple[int, ...] | None:
    """How many rows of each memory a mask lets be attended to, where these are its first.

    Waits for the mask's device, so it is not for every step.

    Args:
        memory_mask_BN: bool (B, N), True = attend.

    Returns:
        B numbers from 0 to N; None where any memory's mask is more than ones and then zeros.
    """
    mask_BN = memory_mask_BN.cpu()  # once: everything below would wait for the device by itself
    lengths_B = mask_BN.sum(1)
    is_first_BN = torch.arange(mask_BN.shape[1]) < lengths_B[:, None]
    return tuple(lengths_B.tolist()) if torch.equal(mask_BN, is_first_BN) else None
