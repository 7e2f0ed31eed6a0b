"""A bounded pool of threads for calls that block: the index and the pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mplug_services.work import QueueFullError

RETRY_SECONDS = 0.2

P = ParamSpec("P")
T = TypeVar("T")


class BlockingPool:
    """Runs blocking calls off the event loop; refuses more than it can hold.

    Args:
        num_workers: threads.
        max_waiting: most calls that run or wait.
    """

    def __init__(self, num_workers: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="index")
        self._max_waiting = max_waiting
        self._waiting = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, computed in a thread. A call that has begun ends even if its caller goes.

        Raises:
            QueueFullError: too many calls wait already.
        """
        if self._waiting >= self._max_waiting:
            raise QueueFullError(f"the index has {self._waiting} calls waiting", RETRY_SECONDS)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))
        job.add_done_callback(self._one_less)
        return await job

    async def run_patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, waiting as long as it takes for room; for bulk work."""
        while True:
            try:
                return await self.run(function, *args, **kwargs)
            except QueueFullError as error:
                await asyncio.sleep(error.retry_after)

    def _one_less(self, _: asyncio.Future[T]) -> None:
        self._waiting -= 1

    def close(self) -> None:
        """Wait for the calls that have begun, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
