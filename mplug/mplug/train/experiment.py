"""What a run trains, as the one trainer sees it.

The trainer (`trainer.py`) knows steps, optimizers, checkpoints and logs; an experiment knows a model, its data and its
losses. Everything random in a step is drawn from torch's global generator, which the trainer seeds from (seed, step,
part), or from numbers derived in the same way: a run that was killed goes on with the steps it would have had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a learning rate; the optimizer splits off those that do not decay."""

    name: str
    parameters: Sequence[tuple[str, nn.Parameter]]
    """With their names in the model."""
    lr: float
    """At the top of the schedule."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The metric that the best checkpoint is chosen by."""

    metric: str
    """A key of `Experiment.evaluate`."""
    rule: str = "max"
    """`max` or `min`."""

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value beats the best so far."""
        return best is None or (value > best if self.rule == "max" else value < best)


class Experiment(Protocol):
    """A model with its data, its losses and its measure."""

    @property
    def model(self) -> nn.Module:
        """All that a checkpoint holds: momentum twins and heads too, whether they are trained or not."""
        ...

    @property
    def goal(self) -> Goal:
        """What is best."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer between two evaluations."""
        ...

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained; parameters that are in no group stand still."""
        ...

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        """Loss terms by name, already weighted: their sum is minimised.

        Args:
            step: of the optimizer, counted from 0.
            part: which of the step's accumulated batches, counted from 0.
        """
        ...

    def after_step(self, step: int) -> None:
        """What follows the optimizer's step: twins move, queues turn."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint needs beside the model's and the optimizer's: tensors and plain values by name."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; its tensors come on the CPU."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Metrics by name, on the split that checkpoints are chosen on; the model's mode is restored."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model as `mplug.load` takes it."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """An experiment with something to do before the first step of a fresh run, such as training new heads alone."""

    def prepare(self) -> None:
        """Change the model in place; the trainer evaluates it afterwards and keeps a checkpoint."""
        ...


@runtime_checkable
class Counting(Protocol):
    """An experiment that says how much a batch held, so that the log can say how much a second."""

    def count(self, step: int, part: int) -> Mapping[str, int]:
        """By name in the plural (`tokens`, `images`), of the part whose losses were computed last."""
        ...


@runtime_checkable
class Exporting(Protocol):
    """An experiment whose best model is also written in the form that it is shipped in."""

    def export(self, best: Path, folder: Path) -> None:
        """Read what `save` wrote to `best`, write it to `folder`, which does not exist yet."""
        ...
