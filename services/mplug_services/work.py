"""Work items for the model, their results, and why an item may have none.

Items are plain picklable dataclasses of numpy arrays, so that the worker can be a thread or a process.
Times are seconds of `time.monotonic()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class WorkKind(StrEnum):
    """What a quantum consists of; one quantum holds items of one kind."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkItem:
    """What every item carries."""

    deadline: float | None = None
    """When its caller stops waiting; it is dropped after that. None: never."""
    patience: float = 30.0
    """Seconds in which it wants to be served. It orders the queue (see `Scheduler`), and drops nothing."""

    @property
    def kind(self) -> WorkKind:
        """The kind of quantum that serves it."""
        raise TypeError(f"{type(self).__name__} is not a kind of work; use EmbedImage or EmbedText")

    @property
    def cost(self) -> int:
        """What it weighs against the budget of its kind, if it ran alone."""
        raise TypeError(f"{type(self).__name__} is not a kind of work; use EmbedImage or EmbedText")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbedImage(WorkItem):
    """One picture to embed. Its cost is its pixels."""

    pixels: NDArray[np.uint8]
    """uint8 (3, R, R)."""

    @property
    def kind(self) -> WorkKind:
        """Images run with images."""
        return WorkKind.IMAGE

    @property
    def cost(self) -> int:
        """Pixels of the square."""
        return int(self.pixels.shape[1] * self.pixels.shape[2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbedText(WorkItem):
    """One text to embed. Its cost is its tokens; a batch costs its rows times its longest row."""

    ids: NDArray[np.int64]
    """int64 (L,), special tokens included."""

    @property
    def kind(self) -> WorkKind:
        """Texts run with texts."""
        return WorkKind.TEXT

    @property
    def cost(self) -> int:
        """Tokens, special ones included."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class WorkResult:
    """What the model made of one item."""

    vector: NDArray[np.float32]
    """float32 (E,), L2-normalised."""
    queue_seconds: float
    """From its submission to the start of its quantum."""
    forward_seconds: float
    """How long its quantum took."""
    quantum: int
    """Number of the quantum that served it; items of one quantum share `forward_seconds`."""


class WorkError(Exception):
    """Base of the reasons for which an item has no result."""


class QueueFullError(WorkError):
    """The queue has no room for the whole batch.

    Attributes:
        retry_after: seconds after which there should be room, from the measured rate of service.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFullError], tuple[str, float]]:
        """Pickles with both its arguments."""
        return type(self), (str(self), self.retry_after)


class BatchTooLargeError(WorkError):
    """A batch that no queue of this size could ever take; repeating it is of no use."""


class DeadlineExceededError(WorkError):
    """The item's deadline passed before the model had time for it."""


class EngineStoppedError(WorkError):
    """The engine takes no more work: it is shutting down, or its model is not loaded yet."""


class NonFiniteError(WorkError):
    """The model gave NaN or infinity; such a vector is never returned."""
