"""The text decoder: BERT layers with cross-attention, an output matrix tied to the word embeddings.

Teacher forcing (`forward`) runs the modules, differentiably. Decoding (`start`, then `step` after `step`) computes the
memory's keys and values once per image and every token's once per sequence; its numbers are those of `forward` up to
rounding. The sequences of one image are folded into the rows of its queries, so that they share its keys and values.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.config import TextDecoderConfig
from mplug.decoder_state import DecoderState
from mplug.decoder_step import PackedDecoder
from mplug.layers import CrossLayer

__all__ = ["DecoderState", "TextDecoder"]

SCORED_LOGITS = 1 << 23
"""Most logits that `score` holds at a time (32 MiB in float32)."""


class DecoderEmbeddings(nn.Module):
    """Sum of word, position and type embeddings, then LayerNorm."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden, padding_idx=config.pad_id)
        self.position = nn.Embedding(config.positions, config.hidden)
        self.token_type = nn.Embedding(config.types, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BL: Tensor, positions: Tensor) -> Tensor:
        """int64 (B, L), and positions (L,) or (B, L) -> (B, L, D); every token is of type 0."""
        summed_BLD = self.word(ids_BL) + self.token_type.weight[0] + self.position(positions)
        normed_BLD: Tensor = self.dropout(self.norm(summed_BLD))
        return normed_BLD


class DecoderHead(nn.Module):
    """States to logits: dense, GELU, LayerNorm, then the word embeddings as the output matrix, and a bias."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x_BLD: Tensor, word_VD: Tensor) -> Tensor:
        """(..., D), and the word embeddings (V, D) -> logits (..., V)."""
        return F.linear(self.norm(F.gelu(self.dense(x_BLD))), word_VD, self.bias)


class TextDecoder(nn.Module):
    """Token ids and a memory to the next token's logits.

    Decoding keeps a second copy of the weights in a layout of its own (see `mplug.packed_linear`), made by the first
    `start` and dropped by `train()`, `load_state_dict` and whatever moves or casts the module. Weights that are changed
    in place in evaluation mode need `drop_packed()`.

    Args:
        config: the decoder's shape.
    """

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = DecoderEmbeddings(config)
        self.layers = nn.ModuleList(
            CrossLayer(
                config.hidden,
                config.heads,
                config.ffn,
                memory_width=config.memory_width,
                eps=config.eps,
                dropout=config.dropout,
            )
            for _ in range(config.layers)
        )
        self.head = DecoderHead(config)
        self._packed: PackedDecoder | None = None
        self.register_load_state_dict_post_hook(_forget_packed)  # type: ignore[no-untyped-call]

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest sequence in tokens."""
        return self.config.positions

    @property
    def eos_id(self) -> int:
        """Token id that ends a text."""
        return self.config.eos_id

    def forward(
        self,
        ids_BL: Tensor,
        memory_BND: Tensor,
        *,
        mask_BL: Tensor | None = None,
        memory_mask_BN: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing: logits after every token, each seeing the tokens before it and itself.

        Args:
            ids_BL: int64 (B, L), padding behind.
            memory_BND: what is attended to (B, N, memory_width).
            mask_BL: bool (B, L), True = a real token; None = all are.
            memory_mask_BN: bool (B, N), True = attend; None = everything.

        Returns:
            (B, L, V); differentiable.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        length = ids_BL.shape[1]
        self._check_length(length)
        mask = torch.ones(length, length, dtype=torch.bool, device=ids_BL.device).tril()
        if mask_BL is not None:
            mask = mask_BL.bool()[:, None, None] & mask
        memory_mask = None if memory_mask_BN is None else memory_mask_BN.bool()[:, None, None]
        x_BLD: Tensor = self.embeddings(ids_BL, torch.arange(length, device=ids_BL.device))
        for layer in self.layers:
            x_BLD = layer(x_BLD, memory_BND, mask=mask, memory_mask=memory_mask)
        logits_BLV: Tensor = self.head(x_BLD, self.embeddings.word.weight)
        return logits_BLV

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
        if memory_BND.shape[-1] != self.config.memory_width:
            raise ValueError(
                f"the memory is {memory_BND.shape[-1]} wide; this decoder attends to {self.config.memory_width}"
            )
        num_sequences, heads = memory_BND.shape[0] * sequences_per_image, self.config.heads
        shape = (0, self.config.layers, 2, num_sequences, heads, self.config.hidden // heads)
        return DecoderState(
            cross=self._pack().project(memory_BND),
            memory_mask_B11N=None if memory_mask_BN is None else _memory_mask(memory_mask_BN.bool()),
            cache_TC2SHK=memory_BND.new_empty(shape),
            lengths_S=torch.zeros(num_sequences, dtype=torch.int64, device=memory_BND.device),
            sequences_per_image=sequences_per_image,
        )

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

    def train(self, mode: bool = True) -> TextDecoder:
        """Set training mode, in which weights change."""
        if mode:
            self.drop_packed()
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> TextDecoder:
        self.drop_packed()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the packed weights."""
        return {**self.__dict__, "_packed": None}

    def _check_length(self, length: int) -> None:
        if length > self.config.positions:
            raise ValueError(
                f"a sequence is {length} tokens long; this decoder has {self.config.positions} positions: "
                "generate fewer tokens, or shorten the prompt"
            )

    @property
    def _cross_layers(self) -> list[CrossLayer]:
        return [cast(CrossLayer, layer) for layer in self.layers]

    def _pack(self) -> PackedDecoder:
        if self._packed is None:
            layers, head = self._cross_layers, self.head
            vocabulary = (self.embeddings.word.weight, head.bias)
            self._packed = PackedDecoder(layers, head.dense, head.norm, vocabulary)
        return self._packed

    def _read(self, ids_SL: Tensor, state: DecoderState, lengths_S: Tensor | None) -> Tensor:
        ids_SL = ids_SL.to(state.device)
        if ids_SL.shape[0] != state.num_sequences:
            raise ValueError(f"ids have {ids_SL.shape[0]} rows, the state {state.num_sequences} sequences")
        if state.used + ids_SL.shape[1] > self.config.positions:  # slots bound the lengths from above
            new = ids_SL.shape[1] if lengths_S is None else lengths_S
            self._check_length(int((state.lengths_S + new).max()))
        positions_SL, mask = state.extend(ids_SL.shape[1], lengths_S)
        # Padding may count beyond the last position; whatever it reads, nothing reads it.
        x_SLD = self.embeddings(ids_SL, positions_SL.clamp_(max=self.config.positions - 1))
        return self._pack().read(x_SLD, state, mask)


def _forget_packed(decoder: TextDecoder, _: object) -> None:
    decoder.drop_packed()


def _memory_mask(memory_mask_BN: Tensor) -> Tensor | None:
    if bool(memory_mask_BN.all()):
        return None  # attention without a mask is faster
    if not bool(memory_mask_BN.any(1).all()):
        raise ValueError("an image's memory is masked altogether; a decoder needs something to attend to")
    return memory_mask_BN[:, None, None]
