"""Reads and decodes ahead of use, in threads, and hands over in order."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from mplug.errors import ImageError, MplugError
from mplug.train.readers.example import Example
from mplug.train.readers.mixture import Draw

T = TypeVar("T")

logger = logging.getLogger(__name__)

_ALWAYS_ALLOWED = 10
"""Broken pictures that no share of few pictures is counted against."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """One row, made ready."""

    draw: Draw
    value: T


@dataclass(frozen=True, slots=True)
class _Broken:
    """A picture that could not be read."""

    what: str


class Loader(Generic[T]):
    """Rows made ready by threads while others are in use.

    A picture that cannot be read is logged and left out; all others are what they would have been. Use it as a context
    manager, or call `close`: what has been begun is then finished, what waits is dropped.

    Args:
        draws: which rows, in order; without end or not.
        prepare: makes a row ready, in a thread: it decodes the picture and may take its randomness from the draw's
            number. `ImageError` and `OSError` mean that the picture is broken.
        threads: how many prepare at once.
        ahead: how many rows may be ready or under way.
        max_broken: share of broken pictures at which to give up, once there are more than ten.
    """

    def __init__(
        self,
        draws: Iterable[Draw],
        prepare: Callable[[Example, Draw], T],
        *,
        threads: int = 4,
        ahead: int = 64,
        max_broken: float = 0.01,
    ) -> None:
        self._draws = iter(draws)
        self._prepare = prepare
        self._ahead = ahead
        self._max_broken = max_broken
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._coming: deque[Future[Loaded[T] | _Broken]] = deque()
        self._closed = False
        self._num_seen = 0
        self.num_broken = 0
        """Pictures left out so far."""

    def __iter__(self) -> Iterator[Loaded[T]]:
        """Rows in the order of their draws.

        Raises:
            MplugError: a row is refused, or too many pictures are broken.
        """
        return (loaded for loaded in self._results() if loaded is not None)

    def batches(self, size: int) -> Iterator[list[Loaded[T]]]:
        """Rows by `size` draws: a batch with a broken picture is shorter, and the batches after it stay the same.

        Raises:
            MplugError: as when iterating.
        """
        batch: list[Loaded[T]] = []
        count = 0
        for loaded in self._results():
            count += 1
            batch += [loaded] if loaded is not None else []
            if count == size:
                yield batch
                batch, count = [], 0
        if count:
            yield batch

    def close(self) -> None:
        """Drops what waits and ends the threads; iterating ends."""
        self._closed = True
        for future in self._coming:
            future.cancel()
        self._coming.clear()
        self._pool.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _results(self) -> Iterator[Loaded[T] | None]:
        """A row for every draw, or nothing where its picture is broken."""
        while not self._closed:
            self._fill()
            if not self._coming:
                return
            result = self._coming.popleft().result()
            self._num_seen += 1
            if isinstance(result, _Broken):
                self._count(result)
                yield None
            else:
                yield result

    def _fill(self) -> None:
        while len(self._coming) < self._ahead and (draw := next(self._draws, None)) is not None:
            self._coming.append(self._pool.submit(self._make, draw))

    def _make(self, draw: Draw) -> Loaded[T] | _Broken:
        example = draw.read()
        try:
            return Loaded(draw, self._prepare(example, draw))
        except (ImageError, OSError) as error:
            return _Broken(f"{example.origin}: {error}")

    def _count(self, broken: _Broken) -> None:
        self.num_broken += 1
        logger.warning("picture left out: %s", broken.what)
        if self.num_broken > max(_ALWAYS_ALLOWED, self._max_broken * self._num_seen):
            raise MplugError(
                f"{self.num_broken} of {self._num_seen} pictures could not be read, more than "
                f"{self._max_broken:.1%}; the last: {broken.what}. Check the paths and files."
            )
