"""The experiment: cross-entropy of the target's tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mplug.errors import MplugError
from mplug.train.experiment import Goal, ParameterGroup
from mplug.train.experiments.base import evaluating
from mplug.train.experiments.batches import to_device
from mplug.train.mini.reading import Shuffled
from mplug.train.text.batches import TextBatch, bucketed_order, collate
from mplug.train.text.config import TextRunConfig
from mplug.train.text.families import AnyFamily, TextExample, token_losses
from mplug.train.text.rows import TextRow

Measure = Callable[[AnyFamily], Mapping[str, float]]
"""Metrics of a model in evaluation mode, without gradients."""


class TextExperiment:
    """A text generator learns rows; an `Experiment`.

    Args:
        family: of the model, which is trained in place.
        rows: to learn from; all are tokenized here.
        config: of the run.
        measures: what an evaluation finds, together.

    Raises:
        MplugError: a row that nothing can be learnt of, or fewer rows than a step takes.
    """

    def __init__(
        self, family: AnyFamily, rows: Sequence[TextRow], config: TextRunConfig, measures: Sequence[Measure]
    ) -> None:
        self.family = family
        self.config = config
        self._measures = measures
        self._examples = [family.example(row) for row in rows]
        self._counts: Mapping[str, int] = {}
        lengths = [len(each.source) + len(each.ids) for each in self._examples]
        weights = [row.weight for row in rows]
        self._per_epoch = round(sum(weights)) // (config.batch_size * config.accumulate)
        if self._per_epoch < 1:
            raise MplugError(
                f"a step takes {config.batch_size * config.accumulate} rows and there are {sum(weights):g} to train "
                f"on: lower batch_size ({config.batch_size}) or accumulate ({config.accumulate})."
            )
        self._batches: Shuffled[int] = Shuffled(
            range(len(rows)),
            config.batch_size,
            f"{config.seed} texts",
            lambda chance: bucketed_order(lengths, weights, config.batch_size, chance),
        )

    @property
    def model(self) -> nn.Module:
        """All that a checkpoint holds."""
        model: nn.Module = self.family.generator
        return model

    @property
    def goal(self) -> Goal:
        """What is best."""
        return Goal(self.config.goal, "min" if self.config.goal in ("perplexity", "loss") else "max")

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every row comes as often as its weight says."""
        return self._per_epoch

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, at one rate."""
        return [ParameterGroup("all", list(self.model.named_parameters()), self.config.lr)]

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        """`text_loss`: the mean over the batch's learnt tokens."""
        batch = self._batch(step * self.config.accumulate + part)
        self._counts = {"texts": len(batch.ids_BL), "tokens": int(batch.counts_BL.sum())}
        losses_P = token_losses(
            self.family,
            batch.source_BN,
            batch.ids_BL,
            batch.counts_BL,
            label_smoothing=self.config.label_smoothing,
        )
        return {"text_loss": losses_P.mean()}

    def count(self, step: int, part: int) -> Mapping[str, int]:
        """Texts and learnt tokens of the part whose losses were computed last."""
        return self._counts

    def after_step(self, step: int) -> None:
        """Nothing: there are no twins."""

    def state(self) -> Mapping[str, Any]:
        """Nothing: batches follow from their numbers."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""

    def evaluate(self) -> Mapping[str, float]:
        """What the measures find, by name."""
        found: dict[str, float] = {}
        with evaluating(self.model):
            for measure in self._measures:
                found |= measure(self.family)
        return found

    def save(self, folder: Path) -> None:
        """Write the model as its family's `load` takes it."""
        self.family.save(folder)

    def _batch(self, number: int) -> TextBatch:
        examples: list[TextExample] = [self._examples[row] for row in self._batches.batch(number)]
        return to_device(collate(examples, self.family.pad_id), self.family.generator.device)
