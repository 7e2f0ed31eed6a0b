"""One step of the optimizer, over an experiment's accumulated parts and over processes."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mplug.errors import MplugError
from mplug.train import optimizer as optim
from mplug.train import parallel
from mplug.train.config import LoopConfig
from mplug.train.experiment import Counting, Experiment
from mplug.train.precision import autocast

# Primes, so that no two (seed, step, part) of a run share a state; CPU generators keep 32 bits of a seed.
_SEED_STRIDE = 1_000_003
_PART_STRIDE = 15_485_863


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to."""

    losses: dict[str, float]
    """Mean of each term over the step's parts."""
    lr: dict[str, float]
    """By parameter group."""
    grad_norm: float
    """Before clipping."""
    counts: dict[str, float]
    """What the experiment counted, over all parts."""


class Stepper:
    """A model with its optimizer, shared out over the processes as the configuration says.

    Args:
        experiment: its model takes the first process's weights.
        config: of the run.
        num_steps: of the whole run, for the schedule.

    Raises:
        MplugError: parameter groups, precision, sharding or number of parts that cannot be.
    """

    def __init__(self, experiment: Experiment, config: LoopConfig, num_steps: int) -> None:
        self._experiment = experiment
        self._config = config
        self._num_steps = num_steps
        self._parts = parallel.own_parts(config.accumulate)
        self.device = next(experiment.model.parameters()).device
        parallel.spread(experiment.model)
        self._losses = parallel.Losses(experiment)
        parallel.shard(self._losses, config.sharding)
        groups = experiment.parameter_groups()
        self._trained = optim.freeze_the_rest(experiment.model, groups)
        self._optimizer = optim.build_optimizer(groups, config.optimizer)

    def step(self, step: int) -> StepResult:
        """One step, counted from 0; its randomness depends on the seed, its number and the part only.

        Raises:
            MplugError: a loss that is no number.
        """
        self._experiment.model.train()
        lr = optim.set_learning_rates(self._optimizer, self._config.optimizer, step, self._num_steps)
        self._optimizer.zero_grad()
        losses: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for part in self._parts:
            losses.update(self._backward(step, part))
            if isinstance(self._experiment, Counting):
                counts.update(self._experiment.count(step, part))
        parallel.share_gradients(self._trained)
        total = parallel.summed(losses, self.device)
        _check(total, step)
        norm = optim.clip_gradients(self._trained, self._config.optimizer.max_grad_norm)
        self._optimizer.step()
        self._experiment.after_step(step)
        return StepResult(total, lr, norm, parallel.summed(counts, self.device))

    def _backward(self, step: int, part: int) -> dict[str, float]:
        """Adds a part's gradients; returns its share of the losses."""
        torch.manual_seed(self._config.seed * _SEED_STRIDE + step + part * _PART_STRIDE)
        with autocast(self._config.precision, self.device.type):
            terms: Mapping[str, Tensor] = self._losses(step, part)
        loss: Tensor = sum(terms.values(), torch.zeros((), device=self.device))
        # Gradients of several processes are averaged, those of one process's parts summed.
        (loss / len(self._parts)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return {name: term.item() / self._config.accumulate for name, term in terms.items()}

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds, in whole tensors; every process takes part."""
        with parallel.whole(self._experiment.model):
            model = self._experiment.model.state_dict()
        optimizer = parallel.whole_state(self._optimizer.state_dict())
        own = dict(self._experiment.state())
        _check_plain(own, "state()")
        return {"model": model, "optimizer": optimizer, "experiment": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""
        parallel.load_model(self._experiment.model, state["model"])
        parallel.load_optimizer(self._optimizer, state["optimizer"])
        self._experiment.restore(state["experiment"])


def _check_plain(value: object, place: str) -> None:
    """What else could be saved would not be loaded again."""
    if isinstance(value, dict):
        for key, each in value.items():
            _check_plain(each, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            _check_plain(each, f"{place}[{number}]")
    else:
        kinds = (Tensor, bool, int, float, str, type(None))
        assert isinstance(value, kinds), f"{place} is a {type(value).__name__}, no tensor and no plain value"


def _check(losses: Mapping[str, float], step: int) -> None:
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise MplugError(
            f"step {step + 1}: {', '.join(wrong)} is no number any more. Continue from the last checkpoint with "
            "a lower learning rate or a longer warm-up, in another --output."
        )
