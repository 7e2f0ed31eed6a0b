"""What all pipelines have in common: they are called with one item or with a list, and closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from mplug.errors import MplugError


class Closable(Protocol):
    """What does a task, here or elsewhere."""

    @property
    def model_name(self) -> str:
        """Name of the model that answers."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class BasePipeline:
    """A task's pipeline; the subclass says how it is called.

    Args:
        task: ModelScope's name.
        runner: what does it.
    """

    def __init__(self, task: str, runner: Closable) -> None:
        self.task = task
        self._closable = runner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model or the connection."""
        self._closable.close()

    # Any: what a task takes and gives, in ModelScope's forms.
    def _in_batches(
        self, input: Any, batch_size: int | None, run: Callable[[Sequence[Any]], list[dict[str, Any]]]
    ) -> Any:
        """Answer one item, or each of a list.

        Args:
            input: an item, or a list of them.
            batch_size: items that run together; None = one at a time, as ModelScope does it.
            run: some items to their answers.

        Raises:
            MplugError: a batch of no items.
        """
        size = 1 if batch_size is None else batch_size
        if size < 1:
            raise MplugError(f"batch_size is {size}; it must be at least 1")
        if not isinstance(input, list):
            return run([input])[0]
        batches = (input[start : start + size] for start in range(0, len(input), size))
        return [answer for batch in batches for answer in run(batch)]
