"""Small helps with asyncio's task groups."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

LeftT = TypeVar("LeftT")
RightT = TypeVar("RightT")


async def both(left: Coroutine[Any, Any, LeftT], right: Coroutine[Any, Any, RightT]) -> tuple[LeftT, RightT]:
    """Results of two coroutines run together; the first error cancels the other and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            left_task, right_task = group.create_task(left), group.create_task(right)
    except ExceptionGroup as errors:
        raise first_error(errors) from errors
    return left_task.result(), right_task.result()


def first_error(errors: ExceptionGroup[Exception]) -> Exception:
    """The first exception of a group, however deep it is nested."""
    error = errors.exceptions[0]
    return first_error(error) if isinstance(error, ExceptionGroup) else error
