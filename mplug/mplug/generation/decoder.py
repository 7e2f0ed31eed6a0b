"""What the engine needs of a decoder; mPLUG's and those to come satisfy it, and the engine imports none of them.

Suffixes of shapes as in `mplug.layers`; an "image" is whatever an item is decoded from.
"""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

from torch import Tensor


class DecodingState(Protocol):
    """What a decoder keeps between steps, of B images with r sequences each; sequence s is of image s // r."""

    def repeat(self, n: int) -> None:
        """Let each image's one sequence become n."""
        ...

    def select(self, rows_S: Tensor) -> None:
        """Let sequence s go on from what sequence `rows_S[s]`, of the same image, has been."""
        ...

    def keep_images(self, rows_B: Tensor) -> None:
        """Go on with these images alone, in this order."""
        ...

    def join(self, other: Self) -> None:
        """Take over another state's images, behind one's own; both have as many sequences for each.

        The other state is not to be used any more.
        """
        ...


StateT = TypeVar("StateT", bound=DecodingState)
StateT_contra = TypeVar("StateT_contra", bound=DecodingState, contravariant=True)


class StepDecoder(Protocol[StateT_contra]):
    """Reads tokens and says what may come next."""

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    @property
    def max_positions(self) -> int:
        """Longest sequence in tokens."""
        ...

    @property
    def eos_id(self) -> int:
        """Token id that ends a text."""
        ...

    def step(self, ids_SL: Tensor, state: StateT_contra, *, lengths_S: Tensor | None = None) -> Tensor:
        """Read L more tokens of each sequence: logits (S, V) after each one's last.

        `lengths_S` says how many tokens of each row are real (at least one, padding behind); None = all of them.
        The ids are on the CPU; the decoder takes them to where it is.
        """
        ...


class ScoringDecoder(StepDecoder[StateT_contra], Protocol[StateT_contra]):
    """A decoder that also tells how likely given tokens are."""

    def score(
        self, ids_SL: Tensor, state: StateT_contra, targets_SL: Tensor, *, lengths_S: Tensor | None = None
    ) -> Tensor:
        """Read L more tokens: float32 (S, L), the log-probability of each target after the token at its place."""
        ...
