"""A model's modules without its numbers, to be given those of a checkpoint or compared with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def skeleton() -> Iterator[None]:
    """Make modules on the meta device, and initialise nothing.

    Drawing numbers for a tensor that has none costs nothing but once: torch imports 150 MB of Python for it.
    """
    with _NoInitialisation(), torch.device("meta"):
        yield


class _NoInitialisation(TorchFunctionMode):
    """Functions of `torch.nn.init` give back what they were given. Any: the signatures are torch's."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
