"""Training objectives. Dims: B batch, E joint embedding (the legend is in ``mplug.layers``)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def itc_loss(left_BE: Tensor, right_BE: Tensor, identity_B: Tensor, scale: Tensor) -> Tensor:
    """Contrast between two views of the same items, both ways (mPLUG section 3.2, without the queue).

    Args:
        left_BE: L2-normalised embeddings.
        right_BE: L2-normalised embeddings, row i belongs to row i of `left_BE`.
        identity_B: Rows with the same number show the same thing: they share the target evenly, as the
            reference does for several captions of one picture, and are no negatives of each other.
        scale: 1 / temperature.

    Returns:
        The mean of both cross-entropies, a scalar.
    """
    same_BB = (identity_B[:, None] == identity_B[None, :]).to(left_BE.dtype)
    target_BB = same_BB / same_BB.sum(1, keepdim=True)
    sim_BB = scale * left_BE @ right_BE.T
    return (_soft_cross_entropy(sim_BB, target_BB) + _soft_cross_entropy(sim_BB.T, target_BB)) / 2


def _soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def identity_numbers(identities: list[str]) -> Tensor:
    """Equal strings to equal numbers, for `itc_loss`."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in identities])
