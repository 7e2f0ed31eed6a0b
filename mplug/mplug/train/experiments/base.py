"""What the experiments share: what they are handed, parameter groups, evaluation and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mplug.checkpoints import native
from mplug.image_encoder import ImageEncoder
from mplug.retrieval import RetrievalModel
from mplug.task_model import TaskModel
from mplug.train.experiment import Goal, ParameterGroup
from mplug.train.experiments.batches import counts, to_device
from mplug.train.experiments.recomputing import recompute
from mplug.train.experiments.settings import LearningRates
from mplug.train.parallel import whole

VISION_TOWER = "image_encoder.backbone."

ModelT = TypeVar("ModelT", bound=TaskModel)
BatchT = TypeVar("BatchT")


class HasImageEncoder(Protocol):
    """Any of mPLUG's models."""

    image_encoder: ImageEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup(Generic[ModelT, BatchT]):
    """What an experiment is handed beside its model and its own settings."""

    batches: Callable[[int, int], BatchT]
    """The batch of a step of the optimizer and a part of it, both counted from 0."""
    evaluator: Callable[[ModelT], Mapping[str, float]]
    """Metrics of the model in evaluation mode, without gradients; see `evaluators.py`."""
    goal: Goal
    steps_per_epoch: int
    learning_rates: LearningRates
    recomputed: tuple[str, ...] = ()
    """Modules whose layers are computed again in the backward pass, see `recomputing.py`."""


class TaskExperiment(ABC, Generic[ModelT, BatchT]):
    """An `Experiment` around one model, which it saves.

    Args:
        model: trained, evaluated and saved.
        setup: what comes from outside.
        whole: all that a checkpoint holds, where that is more than the model.
    """

    def __init__(
        self, model: ModelT, setup: Setup[ModelT, BatchT], *, whole: nn.Module | None = None
    ) -> None:
        self.trained = model
        self.setup = setup
        self._whole = whole or model
        self._batch_norms = [
            each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
        ]
        self._counts: Mapping[str, int] = {}
        recompute(model, setup.recomputed)

    @property
    def model(self) -> nn.Module:
        """All that a checkpoint holds."""
        return self._whole

    @property
    def goal(self) -> Goal:
        """What is best."""
        return self.setup.goal

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer between two evaluations."""
        return self.setup.steps_per_epoch

    def parameter_groups(self) -> list[ParameterGroup]:
        """The vision tower and the rest; what stands still is in neither."""
        return two_groups(self._whole, self.setup.learning_rates)

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        """Weighted loss terms by name; see `Experiment`. Batch norms of a tower keep the statistics they came with."""
        for each in self._batch_norms:
            each.eval()
        return self.terms(step, part)

    @abstractmethod
    def terms(self, step: int, part: int) -> Mapping[str, Tensor]:
        """What `losses` gives."""

    def after_step(self, step: int) -> None:
        """Nothing, unless an experiment has twins."""

    def state(self) -> Mapping[str, Any]:
        """Nothing, unless an experiment has a queue."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""

    def evaluate(self) -> Mapping[str, float]:
        """Metrics by name; the model's mode is restored."""
        with evaluating(self._whole):
            return self.setup.evaluator(self.trained)

    def save(self, folder: Path) -> None:
        """Write the model as `mplug.load` takes it."""
        native.save(self.trained, folder)

    def count(self, step: int, part: int) -> Mapping[str, int]:
        """Pictures and tokens of the part whose losses were computed last."""
        return self._counts

    def batch(self, step: int, part: int) -> BatchT:
        """The batch, as it comes."""
        batch = self.setup.batches(step, part)
        self._counts = counts(batch)
        return batch

    def batch_here(self, step: int, part: int) -> BatchT:
        """The batch, where the model is."""
        return to_device(self.batch(step, part), self.trained.device)


def two_groups(module: nn.Module, rates: LearningRates) -> list[ParameterGroup]:
    """The parameters that learn, by mPLUG's two learning rates; a group without parameters is left out."""
    learning = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
    tower = [(name, each) for name, each in learning if VISION_TOWER in name]
    rest = [(name, each) for name, each in learning if VISION_TOWER not in name]
    groups = [
        ParameterGroup("vision_tower", tower, rates.vision_tower),
        ParameterGroup("rest", rest, rates.rest),
    ]
    return [group for group in groups if group.parameters]


def make_twin(model: RetrievalModel) -> RetrievalModel:
    """A momentum twin of the contrastive half: the same weights, which no gradient reaches."""
    twin = RetrievalModel(model.config, model.tokenizer).to(device=model.device, dtype=model.dtype)
    weights = model.state_dict()
    twin.load_state_dict({key: weights[key] for key in twin.state_dict()})
    return twin.requires_grad_(False).eval()


class WithTwin(nn.Module):
    """A model, its momentum twin, and other heads that are trained and not saved with the model.

    Args:
        online: the model that learns.
        twin: always in evaluation mode, so that its targets are free of dropout; None = there is none.
        heads: by name.
    """

    def __init__(
        self, online: nn.Module, twin: RetrievalModel | None, heads: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.online = online
        self.twin = twin
        self.heads = nn.ModuleDict(dict(heads or {}))

    def train(self, mode: bool = True) -> WithTwin:
        """Set the mode of all but the twin."""
        super().train(mode)
        if self.twin is not None:
            self.twin.eval()
        return self


def image_tokens(model: HasImageEncoder, pixels: Tensor) -> Tensor:
    """image_tokens (B, N, D) of bytes, or of pictures (B, 3, R, R) that are normalised already."""
    encoder = model.image_encoder
    tokens_BND: Tensor = (
        encoder(pixels) if pixels.dtype == torch.uint8 else encoder.adapter(encoder.backbone(pixels))
    )
    return tokens_BND


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients and with whole weights, and afterwards the mode that was.

    Where a step writes texts on several processes, all of them come here.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), whole(module):
            yield
    finally:
        module.train(was_training)
