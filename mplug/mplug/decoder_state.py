"""What a text decoder keeps between its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.state_joining import (
    joined_layer,
    joined_masks,
    kept_images,
    reordered_slots,
    side_by_side,
    tight_mask,
    tokens_last,
)
from mplug_kernels.cached import KeyValues
from mplug_kernels.types import prefix_lengths

GROWTH = 16
"""Slots of the cache are made at least so many at a time: captions and answers fit into the first lot."""


@dataclass(slots=True)
class DecoderState:
    """Keys and values so far, of B images with the same number of sequences each, S = B * sequences_per_image.

    Sequence s belongs to image s // sequences_per_image. Self-attention's keys and values of all layers lie in one
    tensor, slots (T) first, so that a reordering of beams is one copy of the slots in use. Texts of unequal length
    share the slots: those where a shorter prompt had padding, or another state's text had begun before, are marked in
    `valid_ST`, and never read. Leading slots that no text uses any more are dropped when images leave or come.
    """

    cross: list[KeyValues]
    """By layer; never tiled. Empty where a decoder has no memory."""
    memory_mask_B11N: Tensor | None
    """bool, True = attend; None = the whole memory."""
    cache_TC2SHK: Tensor
    """Self-attention: slots T, layers C, keys and values, sequences S, heads H, width of a head K."""
    lengths_S: Tensor
    """int64: tokens seen, which is the next token's position."""
    sequences_per_image: int
    used: int = 0
    """Slots in use."""
    valid_ST: Tensor | None = None
    """bool (S, used): slots that hold a token of the sequence; None = all of them."""
    hidden_SU: Tensor | None = None
    """bool (S, used + 1): slots, the next one included, whose token some of the layers do not read; None = none are."""
    _spare: Tensor | None = field(default=None, repr=False)
    _lengths: tuple[Tensor, tuple[int, ...] | None] | None = field(default=None, repr=False)
    """The memory's mask that was last asked about, and the answer."""

    @property
    def num_sequences(self) -> int:
        """S."""
        return self.lengths_S.shape[0]

    @property
    def num_images(self) -> int:
        """B."""
        return self.num_sequences // self.sequences_per_image

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.lengths_S.device

    def memory_lengths(self) -> tuple[int, ...] | None:
        """How many rows of each image's memory are attended to, where these are its first; None where they are not.

        Worked out when it is first asked for, which waits for the device, and then kept for as long as the mask
        stays: compiled kernels ask in every layer of every step.
        """
        mask_B11N = self.memory_mask_B11N
        if mask_B11N is None:
            return (self.cross[0].key_BHNK.shape[2],) * self.num_images
        if self._lengths is None or self._lengths[0] is not mask_B11N:
            self._lengths = mask_B11N, prefix_lengths(mask_B11N[:, 0, 0])
        return self._lengths[1]

    def extend(self, length: int, lengths_S: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Make room for `length` more tokens of every sequence.

        Args:
            length: slots to add, L.
            lengths_S: real tokens among them, at least one each, padding behind; None = all are real.

        Returns:
            positions int64 (S, L), and the mask of self-attention, bool broadcastable to (S, H, L, T), True =
            attend; None = everything.
        """
        steps_L = torch.arange(length, device=self.device)
        positions_SL = self.lengths_S[:, None] + steps_L
        self._reserve(self.used + length)
        self._mark_valid(length, lengths_S)
        self.used += length
        self.lengths_S = self.lengths_S + (length if lengths_S is None else lengths_S)
        mask = None if self.valid_ST is None else self.valid_ST[:, None, None]
        if length > 1:
            causal_LT = torch.ones(length, self.used, dtype=torch.bool, device=steps_L.device)
            causal_LT = causal_LT.tril(self.used - length)
            mask = causal_LT if mask is None else mask & causal_LT
        return positions_SL, mask

    def write(self, layer: int, key_value_SL2HK: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest tokens' keys and values, in the slots that `extend` added.

        Returns:
            All of the layer's keys and values so far, (S, H, T, K) each.
        """
        length = key_value_SL2HK.shape[1]
        self.cache_TC2SHK[self.used - length : self.used, layer] = key_value_SL2HK.permute(1, 2, 0, 3, 4)
        key_value_2SHTK = self.cache_TC2SHK[: self.used, layer].permute(1, 2, 3, 0, 4)
        return key_value_2SHTK[0], key_value_2SHTK[1]

    def repeat(self, n: int) -> None:
        """Let each image's one sequence become n.

        Raises:
            ValueError: the images have several sequences already.
        """
        if self.sequences_per_image != 1:
            raise ValueError(
                f"every image has {self.sequences_per_image} sequences; only one can be repeated"
            )
        rows_S = torch.arange(self.num_sequences, device=self.device)
        self.sequences_per_image = n
        self._take(rows_S.repeat_interleave(n))

    def select(self, rows_S: Tensor) -> None:
        """Reorder beams: sequence s goes on from what sequence `rows_S[s]`, of the same image, has been."""
        self._take(rows_S)

    def keep_images(self, rows_B: Tensor) -> None:
        """Go on with these images alone, in this order."""
        size: int | None = None
        if self.memory_mask_B11N is not None:
            self.memory_mask_B11N, size = tight_mask(self.memory_mask_B11N.index_select(0, rows_B))
        self.cross = [kept_images(layer, rows_B, size) for layer in self.cross]
        first_B1 = rows_B[:, None] * self.sequences_per_image
        each = torch.arange(self.sequences_per_image, device=rows_B.device)
        rows_S = (first_B1 + each).flatten()
        if self.valid_ST is None:
            self._take(rows_S)
            return
        self._take(rows_S, unused=int(self.valid_ST.index_select(0, rows_S).any(0).byte().argmax()))
        if bool(self.valid_ST.all()):
            self.valid_ST = None  # attention without a mask is faster

    def join(self, other: DecoderState) -> None:
        """Take over another state's images, behind one's own; it is not to be used any more.

        From here on texts end at the same slot, and there are no more slots than the longest has tokens.

        Raises:
            ValueError: the images there have another number of sequences.
        """
        if other.sequences_per_image != self.sequences_per_image:
            raise ValueError(
                f"the other state's images have {other.sequences_per_image} sequences each, these "
                f"{self.sequences_per_image}; repeat them first"
            )
        states = (self, other)
        cross = [joined_layer(*layers) for layers in zip(self.cross, other.cross, strict=True)]
        memory_mask_B11N = joined_masks([state._whole_memory_mask() for state in states]) if cross else None
        caches, hidden = zip(*(state._ended_alike() for state in states), strict=True)
        used = max(map(len, caches))
        capacity = _room(used, max(len(state.cache_TC2SHK) for state in states))
        cache_TC2SHK = side_by_side(caches, used, capacity)
        hides = self.hidden_SU is not None or other.hidden_SU is not None
        self.hidden_SU = (
            torch.cat([F.pad(one, (used + 1 - one.shape[1], 0)) for one in hidden]) if hides else None
        )
        self.lengths_S = torch.cat([state.lengths_S for state in states])
        self.cross, self.memory_mask_B11N = cross, memory_mask_B11N
        self.cache_TC2SHK, self._spare, self.used = cache_TC2SHK, None, used
        valid_ST = torch.arange(used, device=self.device) >= used - self.lengths_S[:, None]
        self.valid_ST = None if bool(valid_ST.all()) else valid_ST

    def _ended_alike(self) -> tuple[Tensor, Tensor]:
        """Every sequence's tokens in its last slots: slots in use (T, C, 2, S, H, K), and hidden ones (S, T + 1)."""
        cache = self.cache_TC2SHK[: self.used]
        hidden_SU = self.hidden_SU
        if hidden_SU is None:
            hidden_SU = self.lengths_S.new_zeros(self.num_sequences, self.used + 1, dtype=torch.bool)
        if self.valid_ST is None:
            return cache, hidden_SU
        order_ST = tokens_last(self.valid_ST)
        if order_ST is not None:
            cache = reordered_slots(cache, order_ST)
            hidden_SU = torch.cat([hidden_SU.gather(1, order_ST), hidden_SU[:, -1:]], dim=1)
        unused = self.used - int(self.lengths_S.max())
        return cache[unused:], hidden_SU[:, unused:]

    def _whole_memory_mask(self) -> Tensor:
        if self.memory_mask_B11N is not None:
            return self.memory_mask_B11N
        size = self.cross[0].key_BHNK.shape[2]
        return self.lengths_S.new_ones(self.num_images, 1, 1, size, dtype=torch.bool)

    def _mark_valid(self, length: int, lengths_S: Tensor | None) -> None:
        ragged = lengths_S is not None and bool((lengths_S != length).any())
        if self.valid_ST is None and not ragged:
            return
        shape = (self.num_sequences, length)
        new_SL = torch.ones(shape, dtype=torch.bool, device=self.device)
        if lengths_S is not None:
            new_SL = torch.arange(length, device=new_SL.device) < lengths_S[:, None]
        old_ST = self.valid_ST
        if old_ST is None:
            old_ST = new_SL.new_ones(self.num_sequences, self.used)
        self.valid_ST = torch.cat([old_ST, new_SL], dim=1)

    def _reserve(self, slots: int) -> None:
        capacity = self.cache_TC2SHK.shape[0]
        if slots <= capacity:
            return
        grown = max(2 * capacity, _rounded(slots))
        cache = self.cache_TC2SHK.new_empty(grown, *self.cache_TC2SHK.shape[1:])
        cache[: self.used] = self.cache_TC2SHK[: self.used]
        self.cache_TC2SHK, self._spare = cache, None

    def _take(self, rows_S: Tensor, unused: int = 0) -> None:
        """Go on with these sequences, without so many leading slots."""
        # Two buffers take turns, so that reordering at every step allocates nothing.
        old, fresh = self.cache_TC2SHK, self._spare
        used = self.used - unused
        is_reordering = rows_S.shape[0] == old.shape[3]
        capacity = old.shape[0] if is_reordering else _room(used, old.shape[0])
        shape = (capacity, *old.shape[1:3], rows_S.shape[0], *old.shape[4:])
        if fresh is None or fresh.shape != shape:
            fresh = old.new_empty(shape)
        torch.index_select(old[unused : self.used], 3, rows_S, out=fresh[:used])
        self.cache_TC2SHK, self._spare = fresh, old if old.shape == shape else None
        self.used = used
        self.lengths_S = self.lengths_S.index_select(0, rows_S)
        if self.valid_ST is not None:
            self.valid_ST = self.valid_ST[:, unused:].index_select(0, rows_S)
        if self.hidden_SU is not None:
            self.hidden_SU = self.hidden_SU[:, unused:].index_select(0, rows_S)


def _rounded(slots: int) -> int:
    return -(-slots // GROWTH) * GROWTH


def _room(slots: int, capacity: int) -> int:
    """Slots to make for so many in use: what there was, but no more than twice as many as it takes."""
    return max(_rounded(slots), min(capacity, 2 * _rounded(slots)))
