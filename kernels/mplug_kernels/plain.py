"""The compiled operators' arithmetic in plain torch, one image at a time: what they must equal, and their gradients.

Accumulates in float32, in float64 where the inputs are. Query rows are in memory's order, `q_SLHK`: S sequences of L
tokens with H heads; keys `k_INGK` of I images have as many heads, or one that serves all (G, the absorbed form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """The sequences that attend to one image, and to how many of its rows."""

    image: int
    sequences: Tensor
    """int64, on the device of the queries."""
    keys: int


def groups_of(items: Tensor, row_sequence: Tensor, kv_lens: Tensor) -> list[Group]:
    """What a work table says of who attends to what; its cutting into blocks does not matter here."""
    order, lengths = row_sequence.long(), kv_lens.tolist()
    found = sorted({(image, first, count) for image, first, count in items[:, :3].tolist()})
    return [Group(image, order[first : first + count], lengths[image]) for image, first, count in found]


def attend(
    q_SLHK: Tensor, k_INGK: Tensor, v_INGK: Tensor, groups: Sequence[Group], scale: float
) -> tuple[Tensor, Tensor]:
    """Softmax of scaled scores, mixed.

    Returns:
        out like q_SLHK, zeros for who has no key; the logarithm of the scores' summed exponentials, float32
        (S, L, H), minus infinity for who has none.
    """
    out_SLHK = torch.zeros_like(q_SLHK)
    lse_SLH = torch.full(q_SLHK.shape[:3], -torch.inf, dtype=torch.float32, device=q_SLHK.device)
    for group in groups:
        if group.keys == 0:
            continue
        score_GRN = _scores(q_SLHK, k_INGK, group, scale)
        mixed_GRK = score_GRN.softmax(-1) @ _heads(v_INGK, group)
        out_SLHK[group.sequences] = _in_order(mixed_GRK, q_SLHK, group).to(q_SLHK.dtype)
        lse_GR1 = score_GRN.logsumexp(-1, keepdim=True)
        lse_SLH[group.sequences] = _in_order(lse_GR1, q_SLHK, group).squeeze(-1).float()
    return out_SLHK, lse_SLH


def attend_backward(
    q_SLHK: Tensor,
    k_INGK: Tensor,
    v_INGK: Tensor,
    groups: Sequence[Group],
    scale: float,
    out_grad_SLHK: Tensor,
    lse_grad_SLH: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from those of `attend`'s results; scores are computed again, none is kept."""
    grads = torch.zeros_like(q_SLHK), torch.zeros_like(k_INGK), torch.zeros_like(v_INGK)
    for group in groups:
        if group.keys == 0:
            continue
        q_GRK, k_GNK, v_GNK = _rows(q_SLHK, k_INGK, group), _heads(k_INGK, group), _heads(v_INGK, group)
        out_grad_GRK = _rows(out_grad_SLHK, k_INGK, group)
        lse_grad_GR1 = _rows(lse_grad_SLH[..., None], k_INGK, group).to(q_GRK.dtype)
        weight_GRN = (q_GRK @ k_GNK.mT * scale).softmax(-1)
        weight_grad_GRN = out_grad_GRK @ v_GNK.mT
        mean_GR1 = (weight_GRN * weight_grad_GRN).sum(-1, keepdim=True)
        score_grad_GRN = weight_GRN * (weight_grad_GRN - mean_GR1 + lse_grad_GR1) * scale
        dtype = q_SLHK.dtype
        grads[0][group.sequences] = _in_order(score_grad_GRN @ k_GNK, q_SLHK, group).to(dtype)
        grads[1][group.image, : group.keys] = (score_grad_GRN.mT @ q_GRK).transpose(0, 1).to(dtype)
        grads[2][group.image, : group.keys] = (weight_GRN.mT @ out_grad_GRK).transpose(0, 1).to(dtype)
    return grads


def merge(out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """One result of two over disjoint keys: outs (..., K), lses (...) float32."""
    lse = torch.logaddexp(lse1, lse2)
    dtype = accumulating(out1.dtype)
    mixed = out1.to(dtype) * share(lse1, lse).to(dtype) + out2.to(dtype) * share(lse2, lse).to(dtype)
    return mixed.to(out1.dtype), lse


def share(part_lse: Tensor, lse: Tensor) -> Tensor:
    """What part of the whole's weight lies in one part, (..., 1); 0 where there is none at all."""
    return (part_lse - lse).exp().where(lse.isfinite(), 0)[..., None]


def accumulating(dtype: torch.dtype) -> torch.dtype:
    """In which type sums are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _scores(q_SLHK: Tensor, k_INGK: Tensor, group: Group, scale: float) -> Tensor:
    return _rows(q_SLHK, k_INGK, group) @ _heads(k_INGK, group).mT * scale


def _rows(x_SLHK: Tensor, k_INGK: Tensor, group: Group) -> Tensor:
    # (head, sequence, token), then as many lots as there are heads of keys.
    x_HSLK = x_SLHK[group.sequences].permute(2, 0, 1, 3).to(accumulating(k_INGK.dtype))
    return x_HSLK.reshape(k_INGK.shape[2], -1, x_SLHK.shape[3])


def _heads(k_INGK: Tensor, group: Group) -> Tensor:
    return k_INGK[group.image, : group.keys].transpose(0, 1).to(accumulating(k_INGK.dtype))


def _in_order(x_GRK: Tensor, q_SLHK: Tensor, group: Group) -> Tensor:
    _, tokens, heads, _ = q_SLHK.shape
    return x_GRK.reshape(heads, len(group.sequences), tokens, -1).permute(1, 2, 0, 3)
