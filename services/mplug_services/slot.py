"""Where something will be that the services need, once its model is loaded and warm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """A place for one thing.

    Args:
        not_ready: makes what callers are told while there is nothing.
    """

    def __init__(self, not_ready: Callable[[], Exception]) -> None:
        self._content: T | None = None
        self._not_ready = not_ready

    def fill(self, content: T) -> None:
        """Put it in service."""
        self._content = content

    def get(self) -> T:
        """Return it; raises what the caller is to be told while there is nothing."""
        if self._content is None:
            raise self._not_ready()
        return self._content

    @property
    def content(self) -> T | None:
        """What is in service, if anything."""
        return self._content
