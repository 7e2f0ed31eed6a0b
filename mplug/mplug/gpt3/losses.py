"""The losses that the reference trains GPT-3 with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_losses(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Cross-entropy of each label, float32 (B, L).

    Args:
        logits_BLV: after each token, of any float type.
        labels_BL: int64 (B, L), the token that comes next: neither this nor the reference shifts anything.
    """
    return F.cross_entropy(logits_BLV.float().transpose(1, 2), labels_BL, reduction="none")


def mean_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """The plain model's loss: the mean over all labels, padding with them; arguments as of `token_losses`."""
    return token_losses(logits_BLV, labels_BL).mean()


def masked_loss(
    logits_BLV: Tensor, labels_BL: Tensor, prompts_B: Tensor, inputs_B: Tensor | None = None
) -> Tensor:
    """The distributed model's loss: the mean over the labels that count, of all texts together; 0 where none does.

    Args:
        logits_BLV: as of `token_losses`.
        labels_BL: likewise.
        prompts_B: int64 (B,), tokens of each text that is to be continued, or of each input.
        inputs_B: int64 (B,), tokens of each input, its output and <sep>; None = texts to be continued.

    Returns:
        A scalar, differentiable.
    """
    counts_BL = loss_mask(labels_BL.shape[1], prompts_B, inputs_B)
    losses_BL = token_losses(logits_BLV, labels_BL).where(counts_BL, 0)
    return losses_BL.sum() / counts_BL.sum().clamp(min=1)


def loss_mask(length: int, prompts_B: Tensor, inputs_B: Tensor | None = None) -> Tensor:
    """Which labels count, bool (B, L).

    Of a text to be continued the first `prompts_B`, so that <sep> behind it is learnt and padding is not. Of an input
    with its output the output and <sep>: labels from number `prompts_B` - 1, which is the output's first token, to
    number `inputs_B` - 2, which is <sep>. Arguments as of `masked_loss`.
    """
    places_L = torch.arange(length, device=prompts_B.device)
    if inputs_B is None:
        return places_L < prompts_B[:, None]
    return (places_L >= prompts_B[:, None] - 1) & (places_L < inputs_B[:, None] - 1)
