"""Tensors of `DecoderState`s put together, and cut to what is still read of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug_kernels.cached import KeyValues


def kept_images(layer: KeyValues, rows_B: Tensor, size: int | None) -> KeyValues:
    """The first so many keys and values (None = all) of some of the images, in this order."""
    return KeyValues(*(_kept(part, rows_B, size) for part in (layer.key_BHNK, layer.value_BHNK)))


def tight_mask(memory_mask_B11N: Tensor) -> tuple[Tensor | None, int]:
    """The mask of as much of the memory as any image has, and how much that is; None = all have the whole of it."""
    used_N = memory_mask_B11N.any(0).flatten()
    size = int((used_N * torch.arange(1, len(used_N) + 1, device=used_N.device)).max())
    mask_B11N = memory_mask_B11N[..., :size]
    return None if bool(mask_B11N.all()) else mask_B11N, size


def joined_layer(ours: KeyValues, theirs: KeyValues) -> KeyValues:
    """One layer's keys and values of both states' images; smaller memories are filled up with zeros."""
    return KeyValues(
        _one_behind_the_other(ours.key_BHNK, theirs.key_BHNK),
        _one_behind_the_other(ours.value_BHNK, theirs.value_BHNK),
    )


def joined_masks(masks_B11N: Sequence[Tensor]) -> Tensor | None:
    """The memory masks of several states' images, which hide what was filled up; None = nothing is hidden."""
    size = max(mask.shape[-1] for mask in masks_B11N)
    mask_B11N = torch.cat([F.pad(mask, (0, size - mask.shape[-1])) for mask in masks_B11N])
    return None if bool(mask_B11N.all()) else mask_B11N


def side_by_side(caches: Sequence[Tensor], slots: int, capacity: int) -> Tensor:
    """The sequences of several caches (T, C, 2, S, H, K) in one, all of which end at the same slot.

    Args:
        caches: their slots in use, at most `slots`.
        slots: of the one that are in use.
        capacity: slots that it has.
    """
    like, counts = caches[0], [cache.shape[3] for cache in caches]
    joined = like.new_empty(capacity, *like.shape[1:3], sum(counts), *like.shape[4:])
    for cache, room in zip(caches, torch.split(joined[:slots], counts, dim=3), strict=True):
        room[: slots - len(cache)] = (
            0  # a mask makes weights of zero, and only numbers times zero are nothing
        )
        room[slots - len(cache) :] = cache
    return joined


def tokens_last(valid_ST: Tensor) -> Tensor | None:
    """An order of every sequence's slots that has those with tokens behind all others; None = they are there.

    Args:
        valid_ST: bool (S, T), slots that hold a token.

    Returns:
        int64 (S, T).
    """
    order_ST = valid_ST.byte().sort(dim=1, stable=True).indices
    is_ordered = torch.equal(
        order_ST, torch.arange(valid_ST.shape[1], device=order_ST.device).expand_as(order_ST)
    )
    return None if is_ordered else order_ST


def reordered_slots(cache_TC2SHK: Tensor, order_ST: Tensor) -> Tensor:
    """Every sequence's slots in an order of its own."""
    rows_S1 = torch.arange(order_ST.shape[0], device=order_ST.device)[:, None]
    return cache_TC2SHK.permute(3, 0, 1, 2, 4, 5)[rows_S1, order_ST].permute(1, 2, 3, 0, 4, 5)


def _kept(part_BHNK: Tensor, rows_B: Tensor, size: int | None) -> Tensor:
    # Heads are a view of rows of width D: the copy keeps that layout, which is whole rows of memory.
    return part_BHNK.transpose(1, 2)[:, :size].index_select(0, rows_B).transpose(1, 2)


def _one_behind_the_other(ours_BHNK: Tensor, theirs_BHNK: Tensor) -> Tensor:
    size = max(ours_BHNK.shape[2], theirs_BHNK.shape[2])
    parts_BNHK = [part.transpose(1, 2) for part in (ours_BHNK, theirs_BHNK)]
    filled = [F.pad(part, (0, 0, 0, 0, 0, size - part.shape[1])) for part in parts_BNHK]
    return torch.cat(filled).transpose(1, 2)
