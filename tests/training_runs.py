"""A toy experiment for the tests of the trainer, and a command that runs it in a process of its own.

python training_runs.py OUTPUT PAUSE DEATH [KEY=VALUE …]
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mplug.train import parallel
from mplug.train.config import LoopConfig, OptimizerConfig, override
from mplug.train.experiment import Goal, ParameterGroup
from mplug.train.trainer import Trainer

BATCH = 8
WIDTH = 4
QUEUE = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig(LoopConfig):
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(warmup_steps=2))
    epochs: int = 3
    precision: str = "float32"
    log_every: int = 1
    checkpoint_every: int = 2
    dropout: float = 0.0
    rate: float = 1e-2


class Net(nn.Module):
    """A bit of everything that a model may hold: a scalar, a table, a twin without gradients, a buffer."""

    seen: Tensor

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(3, WIDTH))
        self.layers = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 1))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.twin = copy.deepcopy(self.layers)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x_BD: Tensor) -> Tensor:
        y_B: Tensor = self.scale * self.layers(x_BD + self.embedding.mean(0))[:, 0]
        return y_B


class Toy:
    """Regression on rows drawn from a step's number; a part is its share of the step's batch.

    Args:
        config: of the run.
        pause: seconds that a batch takes, for those who wait to kill it.
        death: the step, counted from 0, in which the process kills itself.
        goal: what is best.
    """

    def __init__(
        self, config: ToyConfig, *, pause: float = 0.0, death: int | None = None, goal: Goal | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.model = Net(config.dropout)
        self.goal = goal or Goal("error", "min")
        self.steps_per_epoch = 4
        self.queue = torch.zeros(QUEUE)
        self.fresh: list[Tensor] = []
        self._pause = pause
        self._death = death

    def parameter_groups(self) -> list[ParameterGroup]:
        named = [(name, p) for name, p in self.model.named_parameters() if not name.startswith("twin")]
        heads = [(name, p) for name, p in named if name == "scale"]
        rest = [(name, p) for name, p in named if name != "scale"]
        return [ParameterGroup("rest", rest, self.config.rate), ParameterGroup("head", heads, 3e-2)]

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        time.sleep(self._pause)
        if step == self._death:
            os.kill(os.getpid(), signal.SIGKILL)
        x_BD, y_B = batch(step)
        rows = slice(part * BATCH // self.config.accumulate, (part + 1) * BATCH // self.config.accumulate)
        predicted_B = self.model(x_BD[rows])
        self.fresh.append(predicted_B.detach().float())
        error = (predicted_B - y_B[rows]).pow(2).mean()
        return {"error_loss": error, "queue_loss": 0.1 * predicted_B.mean() * self.queue.mean()}

    def count(self, step: int, part: int) -> Mapping[str, int]:
        return {"rows": BATCH // self.config.accumulate}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.queue = torch.cat([parallel.gather(torch.cat(self.fresh)), self.queue])[:QUEUE]
        self.fresh = []
        self.model.seen += 1
        for mine, twins in zip(self.model.layers.parameters(), self.model.twin.parameters(), strict=True):
            twins.lerp_(mine, 0.1)

    def state(self) -> Mapping[str, Any]:
        return {"queue": self.queue}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.queue = state["queue"]

    def evaluate(self) -> Mapping[str, float]:
        x_BD, y_B = batch(-1)
        self.model.eval()
        with torch.no_grad():
            error = (self.model(x_BD) - y_B).pow(2).mean().item()
        return {"error": error, "steps": float(self.model.seen)}

    def save(self, folder: Path) -> None:
        folder.mkdir()
        torch.save(self.model.state_dict(), folder / "model.pt")


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    x_BD = torch.randn(BATCH, WIDTH, generator=generator)
    return x_BD, x_BD[:, 0] - 2 * x_BD[:, 1].abs()


def main() -> None:
    torch.set_num_threads(1)
    output, pause, death, *settings = sys.argv[1:]
    config = override(ToyConfig(), settings)
    with parallel.processes():
        Trainer(Toy(config, pause=float(pause), death=int(death)), config, Path(output)).fit()


if __name__ == "__main__":
    main()
