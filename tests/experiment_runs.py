"""A run of all four objectives on toy data, as a command, for the tests with several processes.

python experiment_runs.py OUTPUT [KEY=VALUE …]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from experiment_cases import calm, setup, text_batch
from golden.mplug_cases import tiny
from mplug.train import parallel
from mplug.train.config import LoopConfig, OptimizerConfig, override
from mplug.train.experiments.batches import TextBatch
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.pretraining import PretrainingExperiment
from mplug.train.experiments.settings import ContrastConfig, PretrainingObjective
from mplug.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyPretraining(LoopConfig):
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(warmup_steps=2))
    max_steps: int = 5
    accumulate: int = 2
    precision: str = "float32"
    log_every: int = 1
    checkpoint_every: int = 3
    objective: PretrainingObjective = field(
        default_factory=lambda: PretrainingObjective(contrast=ContrastConfig(queue_size=30, momentum=0.9))
    )


def weight_norm(model: nn.Module) -> dict[str, float]:
    return {"metric": sum(float(each.norm()) for each in model.parameters())}


class Watched(PretrainingExperiment):
    """Sees which parameters are whole when all blocks have computed and the backward pass has not begun."""

    held: tuple[str, ...] = ()

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        terms = super().losses(step, part)
        self.held = tuple(
            name for name, each in self.model.named_parameters() if not isinstance(each, DTensor)
        )
        return terms


def train(output: Path, settings: Sequence[str] = ()) -> Trainer:
    torch.set_num_threads(1)
    config = override(ToyPretraining(), settings)
    with parallel.processes():
        torch.manual_seed(0)
        model = calm(tiny(WholeModel))

        def batches(step: int, part: int) -> TextBatch:
            return text_batch(step, part)

        experiment = Watched(model, config.objective, setup(batches, weight_norm))
        trainer = Trainer(experiment, config, output)
        trainer.fit()
        if parallel.rank() == 0:
            (output / "held.json").write_text(json.dumps(experiment.held))
    return trainer


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2:])
