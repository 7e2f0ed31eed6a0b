"""Work items for the model, their results, and why an item may have none.

Items are plain picklable dataclasses of numpy arrays, so that the worker can be a thread or a process.
Times are seconds of `time.monotonic()`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ValueT = TypeVar("ValueT")


STREAM_PAUSE = 0.02
"""Least seconds between two messages of a stream, its end apart: fifty a second look like typing."""


class WorkKind(StrEnum):
    """What a quantum consists of; one quantum holds items of one kind."""

    IMAGE = "image"
    """Pictures to vectors."""
    TEXT = "text"
    """Texts to vectors."""
    CAPTION = "caption"
    """Pictures to sentences."""
    ANSWER = "answer"
    """Pictures and questions to answers."""
    ENCODE = "encode"
    """Pictures to the reranker's image tokens."""
    RERANK = "rerank"
    """Texts with pictures' tokens to probabilities of a match."""
    EXPLAIN = "explain"
    """What texts and decisions looked at."""
    GENERATE = "generate"
    """Texts to what a model writes of them."""
    JUDGE = "judge"
    """Texts to labels, spans and missing words."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkItem:
    """What every item carries."""

    deadline: float | None = None
    """When its caller stops waiting; it is dropped after that. None: never."""
    patience: float = 30.0
    """Seconds in which it wants to be served. It orders the queue (see `Scheduler`), and drops nothing."""
    model: str = ""
    """Name of the models that it is for, where these were added to the engine; empty: those it began with."""

    @property
    def kind(self) -> WorkKind:
        """The kind of quantum that serves it."""
        raise TypeError(f"{type(self).__name__} is not a kind of work; use one of its subclasses")

    @property
    def cost(self) -> int:
        """What it weighs against the budget of its kind, if it ran alone; a batch costs its longest times its rows."""
        raise TypeError(f"{type(self).__name__} is not a kind of work; use one of its subclasses")

    @property
    def batch_key(self) -> Hashable:
        """Items of one kind and model run together where these are equal; None: with all that have None."""
        return None

    @property
    def joins(self) -> bool:
        """Whether it may join a batch of its group that has begun, between two quanta; its runner must know how."""
        return False

    @property
    def group(self) -> Hashable:
        """What items of one kind have in common that run together."""
        return self.model, self.batch_key


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

    value: object
    """What its kind of work gives; of an embedding the vector, float32 (E,), L2-normalised."""
    queue_seconds: float
    """From its submission to the start of its first quantum."""
    forward_seconds: float
    """How long the quanta of its batch took, from its own first one to its settlement."""
    quantum: int
    """Number of the first quantum of its batch, whose items ran at the same time."""

    @property
    def vector(self) -> NDArray[np.float32]:
        """The value of an embedding."""
        return self.expect(np.ndarray)

    def expect(self, kind: type[ValueT]) -> ValueT:
        """Return the value, which is of this type."""
        assert isinstance(self.value, kind), type(self.value)
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """What a runner reports of an item that goes on; see `runners.runner.Deliver`."""

    value: object


class ResultFuture(Future[WorkResult]):
    """An item's future, whose caller may leave while it runs: `cancel` then says False, and the work ends soon.

    Args:
        progress: called in the worker's thread with what is reported before the result; must be quick.
    """

    def __init__(self, progress: Callable[[object], None] | None = None) -> None:
        super().__init__()
        self._progress = progress
        self.abandoned = False
        """Whether nobody waits any more."""

    def cancel(self) -> bool:
        """Leave; True where the item had not begun to run."""
        self.abandoned = True
        return super().cancel()

    def report(self, value: object) -> None:
        """Tell who listens how it goes."""
        if self._progress is not None and not self.abandoned:
            self._progress(value)

    def settle(self, outcome: WorkResult | Exception) -> None:
        """Set the result or error, unless there is one already."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(outcome, Exception):
                self.set_exception(outcome)
            else:
                self.set_result(outcome)


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


class ModelRemovedError(WorkError):
    """The model that the item is for was taken out while the item waited; asking again puts it back."""


class NonFiniteError(WorkError):
    """The model gave NaN or infinity; such a vector or text is never returned."""
