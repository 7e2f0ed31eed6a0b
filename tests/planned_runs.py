"""A run of a plain transformer through the trainer, as a command that tells what it took, for the test of the planner.

python planned_runs.py OUTPUT
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.config import TextEncoderConfig
from mplug.text_decoder import DecoderHead
from mplug.text_encoder import TextEncoder
from mplug.train.config import LoopConfig
from mplug.train.experiment import Goal, ParameterGroup
from mplug.train.throughput import measure_peak
from mplug.train.trainer import Trainer

LAYERS, HIDDEN, VOCAB, SEQUENCE, BATCH, STEPS = 6, 384, 8000, 128, 8, 9


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedConfig(LoopConfig):
    precision: str = "float32"
    log_every: int = 1
    checkpoint_every: int = 10**9


class Words(nn.Module):
    """Tokens to logits of the same tokens, by one table."""

    def __init__(self) -> None:
        super().__init__()
        config = TextEncoderConfig(
            vocab_size=VOCAB,
            hidden=HIDDEN,
            layers=LAYERS,
            heads=6,
            ffn=4 * HIDDEN,
            positions=SEQUENCE,
            dropout=0.0,
        )
        self.encoder = TextEncoder(config)
        self.head = DecoderHead(config)

    def forward(self, ids_BL: Tensor) -> Tensor:
        states_BLD = self.encoder(ids_BL, torch.ones_like(ids_BL, dtype=torch.bool))
        logits_BLV: Tensor = self.head(states_BLD, self.encoder.embeddings.word.weight)
        return logits_BLV


class Planned:
    """Tokens at random; after the last step it looks how large the process has become."""

    def __init__(self) -> None:
        self.before = psutil.Process().memory_info().rss
        self.model = Words()
        self.goal = Goal("nothing")
        self.steps_per_epoch = STEPS
        self.peak = 0

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", list(self.model.named_parameters()), 1e-4)]

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        ids_BL = torch.randint(VOCAB, (BATCH, SEQUENCE))
        return {"loss": F.cross_entropy(self.model(ids_BL).flatten(0, 1), ids_BL.flatten())}

    def after_step(self, step: int) -> None:
        self.peak = peak_memory()

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None: ...

    def evaluate(self) -> Mapping[str, float]:
        return {"nothing": 0.0}

    def save(self, folder: Path) -> None:
        folder.mkdir()


def peak_memory() -> int:
    """Bytes at most, of this program alone: `ru_maxrss` begins with what the process was that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def main() -> None:
    torch.set_num_threads(1)
    peak = measure_peak(torch.device("cpu"), torch.float32)
    experiment, output = Planned(), Path(sys.argv[1])
    Trainer(experiment, PlannedConfig(epochs=1), output).fit()
    told = {
        "parameters": sum(each.numel() for each in experiment.model.parameters()),
        "grown": experiment.peak - experiment.before,
        "operations_per_second": peak,
    }
    (output / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
