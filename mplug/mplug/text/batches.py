"""Texts of like length go through a model together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mplug.text.tokenizer import Tokens

BATCH_ROWS = 32
"""Texts that go through the model at once; those of like length go together, so that little of it is padding."""

T = TypeVar("T", bound=Tokens)
R = TypeVar("R")


def in_batches(tokens: Sequence[T], run: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Run texts of like length together.

    Args:
        tokens: what to run.
        run: gives one result for each of some of them, in their order.

    Returns:
        The results in the order of `tokens`.
    """
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index].ids))
    found: dict[int, R] = {}
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        found.update(zip(rows, run([tokens[row] for row in rows]), strict=True))
    return [found[index] for index in range(len(tokens))]
