"""The losses that the reference trains PALM with."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def smoothed_loss(logits_BLV: Tensor, labels_BL: Tensor, *, pad_id: int, smoothing: float) -> Tensor:
    """Divergence of the model from labels that leave some probability to all other tokens, padding excepted.

    The Kullback-Leibler divergence is summed over tokens. The reference means to divide it by their number and drops
    the quotient, so that its loss, and this one, grows with the batch.

    Args:
        logits_BLV: after each token, of any float type.
        labels_BL: int64 (B, L), the token that comes next; padding does not count.
        pad_id: token id of padding.
        smoothing: probability that `V - 2` tokens share, neither the label nor padding; above 0, below 1.

    Returns:
        A scalar, differentiable.
    """
    log_probs_BLV = logits_BLV.float().log_softmax(-1)
    others = logits_BLV.shape[-1] - 2
    share, confidence = smoothing / others, 1 - smoothing
    label_BL = log_probs_BLV.gather(-1, labels_BL[..., None])[..., 0]
    other_BL = log_probs_BLV.sum(-1) - label_BL - log_probs_BLV[..., pad_id]
    negative_entropy = confidence * math.log(confidence) + smoothing * math.log(share)
    losses_BL = negative_entropy - confidence * label_BL - share * other_BL
    return losses_BL.where(labels_BL != pad_id, 0).sum()


def plain_loss(logits_BLV: Tensor, labels_BL: Tensor, *, pad_id: int) -> Tensor:
    """Cross-entropy, summed over tokens, padding excepted; arguments as of `smoothed_loss`."""
    log_probs_BVL = logits_BLV.float().log_softmax(-1).transpose(1, 2)
    return F.nll_loss(log_probs_BVL, labels_BL, ignore_index=pad_id, reduction="sum")
