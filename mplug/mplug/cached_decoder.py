"""What text decoders share that keep a `DecoderState`: stepping, scoring, and a second copy of their matrices.

`StepwiseDecoder` is all of it but the beginning; `CachedDecoder` begins with a memory that it attends to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from mplug.decoder_state import DecoderState
from mplug_kernels.cached import KeyValues

SCORED_LOGITS = 1 << 23
"""Most logits that `score` holds at a time (32 MiB in float32)."""


class PackedLayers(Protocol):
    """A copy of a decoder's matrices, laid out for decoding."""

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        ...


class Packed(PackedLayers, Protocol):
    """The same of a decoder that attends to a memory."""

    def project(self, memory_BNM: Tensor) -> list[KeyValues]:
        """Keys and values of every cross-attention, (B, H, N, K) each."""
        ...


LayersT = TypeVar("LayersT", bound=PackedLayers)
PackedT = TypeVar("PackedT", bound=Packed)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSizes:
    """What stepping needs to know of a decoder."""

    vocab_size: int
    positions: int
    """Longest sequence in tokens."""
    eos_id: int
    """Token id that ends a text."""
    cached_layers: int
    """Self-attentions, each with keys and values of its own."""
    heads: int
    head_width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderSizes(StepSizes):
    """The same of a decoder that attends to a memory."""

    bos_id: int
    """Token id that starts a text."""
    memory_width: int


class StepwiseDecoder(nn.Module, Generic[LayersT], ABC):
    """Token ids to the next token's logits.

    Decoding keeps a second copy of the weights in a layout of its own (see `mplug.packed_linear`), made by the first
    `start` and dropped by `train()`, `load_state_dict` and whatever moves or casts the module. Weights that are changed
    in place in evaluation mode need `drop_packed()`.

    Args:
        sizes: the decoder's.
    """

    def __init__(self, sizes: StepSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self._packed: LayersT | None = None
        self.register_load_state_dict_post_hook(_forget_packed)  # type: ignore[no-untyped-call]

    @property
    def words(self) -> nn.Embedding | None:
        """The table that is the output matrix, too, and may be quantized; None = there is none."""
        return None

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.sizes.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest sequence in tokens."""
        return self.sizes.positions

    @property
    def eos_id(self) -> int:
        """Token id that ends a text."""
        return self.sizes.eos_id

    @torch.no_grad()
    def step(self, ids_SL: Tensor, state: DecoderState, *, lengths_S: Tensor | None = None) -> Tensor:
        """Read L more tokens of each sequence.

        Args:
            ids_SL: int64 (S, L), padding behind.
            state: of `start` or of the step before; it moves on.
            lengths_S: int64 (S,), real tokens of each row, at least one; None = all L.

        Returns:
            Logits (S, V) after each sequence's last token; without dropout, not differentiable.

        Raises:
            ValueError: another number of sequences, or sequences longer than the position embeddings.
        """
        lengths_S = None if lengths_S is None else lengths_S.to(state.device)
        x_SLD = self._read(ids_SL, state, lengths_S)
        if lengths_S is None:
            return self._pack().logits(x_SLD[:, -1])
        return self._pack().logits(
            x_SLD[torch.arange(state.num_sequences, device=state.device), lengths_S - 1]
        )

    @torch.no_grad()
    def score(
        self, ids_SL: Tensor, state: DecoderState, targets_SL: Tensor, *, lengths_S: Tensor | None = None
    ) -> Tensor:
        """Read L more tokens of each sequence, and say how likely another token is after each.

        Args:
            ids_SL: int64 (S, L), padding behind.
            state: of `start` or of the step before; it moves on.
            targets_SL: int64 (S, L), the tokens asked about.
            lengths_S: int64 (S,), real tokens of each row, at least one; None = all L.

        Returns:
            float32 (S, L), log-probabilities; what stands behind padding means nothing.

        Raises:
            ValueError: as `step`.
        """
        lengths_S = None if lengths_S is None else lengths_S.to(state.device)
        rows_PD = self._read(ids_SL, state, lengths_S).flatten(0, 1)
        targets_P1 = targets_SL.to(state.device).flatten()[:, None]
        room = max(1, SCORED_LOGITS // self.vocab_size)
        scored = [
            self._pack().logits(some_PD).float().log_softmax(-1).gather(-1, some_P1)
            for some_PD, some_P1 in zip(
                torch.split(rows_PD, room), torch.split(targets_P1, room), strict=True
            )
        ]
        return torch.cat(scored).view_as(ids_SL)

    def drop_packed(self) -> None:
        """Forget decoding's copy of the weights; the next `start` or `step` makes it anew."""
        self._packed = None

    def train(self, mode: bool = True) -> Self:
        """Set training mode, in which weights change."""
        if mode:
            self.drop_packed()
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.drop_packed()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the packed weights."""
        return {**self.__dict__, "_packed": None}

    @abstractmethod
    def _make_packed(self) -> LayersT:
        """Copy the matrices as they are now."""

    @abstractmethod
    def _read_tokens(
        self, ids_SL: Tensor, positions_SL: Tensor, state: DecoderState, mask: Tensor | None
    ) -> Tensor:
        """Run all layers over tokens for which the state has made room: (S, L, D), before the output matrix.

        Args:
            ids_SL: where the state is.
            positions_SL: each below `max_positions`.
            state: keeps the keys and values.
            mask: of self-attention; None = everything.
        """

    def _new_state(self, like: Tensor, num_sequences: int) -> DecoderState:
        """No token read, no memory; of the type and in the place of a tensor."""
        sizes = self.sizes
        shape = (0, sizes.cached_layers, 2, num_sequences, sizes.heads, sizes.head_width)
        return DecoderState(
            cross=[],
            memory_mask_B11N=None,
            cache_TC2SHK=like.new_empty(shape),
            lengths_S=torch.zeros(num_sequences, dtype=torch.int64, device=like.device),
            sequences_per_image=1,
        )

    def _check_length(self, length: int) -> None:
        if length > self.max_positions:
            raise ValueError(
                f"a sequence is {length} tokens long; this decoder has {self.max_positions} positions: "
                "generate fewer tokens, or shorten the prompt"
            )

    def _pack(self) -> LayersT:
        if self._packed is None:
            self._packed = self._make_packed()
        return self._packed

    def _read(self, ids_SL: Tensor, state: DecoderState, lengths_S: Tensor | None) -> Tensor:
        ids_SL = ids_SL.to(state.device)
        if ids_SL.shape[0] != state.num_sequences:
            raise ValueError(f"ids have {ids_SL.shape[0]} rows, the state {state.num_sequences} sequences")
        if state.used + ids_SL.shape[1] > self.max_positions:  # slots bound the lengths from above
            new = ids_SL.shape[1] if lengths_S is None else lengths_S
            self._check_length(int((state.lengths_S + new).max()))
        positions_SL, mask = state.extend(ids_SL.shape[1], lengths_S)
        # Padding may count beyond the last position; whatever it reads, nothing reads it.
        return self._read_tokens(ids_SL, positions_SL.clamp_(max=self.max_positions - 1), state, mask)


class CachedDecoder(StepwiseDecoder[PackedT]):
    """Token ids and a memory to the next token's logits; see `StepwiseDecoder`."""

    sizes: DecoderSizes

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__(sizes)

    @property
    def bos_id(self) -> int:
        """Token id that starts a text."""
        return self.sizes.bos_id

    @torch.no_grad()
    def start(
        self, memory_BND: Tensor, *, memory_mask_BN: Tensor | None = None, sequences_per_image: int = 1
    ) -> DecoderState:
        """Project the memory of B images, before any token.

        Args:
            memory_BND: what is attended to (B, N, memory_width).
            memory_mask_BN: bool (B, N), True = attend; None = everything.
            sequences_per_image: sequences that each image begins with.

        Raises:
            ValueError: the memory is of another width, or an image is masked altogether.
        """
        if memory_BND.shape[-1] != self.sizes.memory_width:
            raise ValueError(
                f"the memory is {memory_BND.shape[-1]} wide; this decoder attends to {self.sizes.memory_width}"
            )
        state = self._new_state(memory_BND, memory_BND.shape[0] * sequences_per_image)
        state.cross = self._pack().project(memory_BND)
        state.memory_mask_B11N = None if memory_mask_BN is None else _memory_mask(memory_mask_BN.bool())
        state.sequences_per_image = sequences_per_image
        return state


def _forget_packed(decoder: StepwiseDecoder[Any], _: object) -> None:
    decoder.drop_packed()


def _memory_mask(memory_mask_BN: Tensor) -> Tensor | None:
    if bool(memory_mask_BN.all()):
        return None  # attention without a mask is faster
    if not bool(memory_mask_BN.any(1).all()):
        raise ValueError("an image's memory is masked altogether; a decoder needs something to attend to")
    return memory_mask_BN[:, None, None]
