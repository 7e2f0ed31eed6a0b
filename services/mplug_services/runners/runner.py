"""What the worker needs of a runner: work of one kind, cut into quanta."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from mplug_services.work import WorkItem, WorkKind

Deliver = Callable[[int, object], None]
"""`deliver(i, value)` settles item i: with its value, or with its error where that is an `Exception`. Only the first
settlement counts. A `work.Progress` settles nothing and goes to whoever listens."""

Alive = Callable[[int], bool]
"""`alive(i)` is False once item i is settled, its caller has gone or its deadline has passed."""


Newcomers = Mapping[int, WorkItem]
"""Items that have joined a batch, by place."""


class Runner(Protocol):
    """Runs batches of one kind of work in the worker's thread, under `torch.inference_mode()`."""

    @property
    def kind(self) -> WorkKind:
        """The kind of its items."""
        ...

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """Run items that the scheduler took together: of one kind, with equal `batch_key`, within the kind's budget.

        A generator. Each `yield` ends a quantum: the worker may then run more urgent work before it goes on, or close
        the generator when no item is alive any more. What is past its deadline has failed by the time the generator
        goes on. An exception that it raises is the error of all items not yet settled; so is ending without settling.

        Where items may join a batch that has begun (`WorkItem.joins`), a `yield` gives `Newcomers`, or None.

        Args:
            items: the batch; their places are their numbers here.
            deliver: settles an item; may be called at any time, mostly before the last quantum for some of them.
            alive: whether an item is still of use. Asked after a `yield`, it says who left meanwhile.
        """
        ...

    def warm_up(self) -> Sequence[Sequence[WorkItem]]:
        """Batches to run before the first caller comes: a shape's first pass allocates, and on a GPU compiles."""
        ...
