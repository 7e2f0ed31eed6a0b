"""Toy data and a loop of a few lines for the tests of experiments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from golden.mplug_cases import GoldenCase, small_vocab
from mplug.task_model import TaskModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.train.experiment import Experiment, Goal
from mplug.train.experiments.base import Setup
from mplug.train.experiments.batches import CaptionExample, TextBatch, collate_texts
from mplug.train.experiments.settings import LearningRates

M = TypeVar("M", bound=TaskModel)
B = TypeVar("B")

TOKENIZER = WordPieceTokenizer(small_vocab(130), max_length=25)
# Four patches of one colour each: noise would look alike to an untrained tower.
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 3, 2, 2), dtype=np.uint8).repeat(16, 2).repeat(16, 3)
TEXTS = [f"piece{10 + n} piece{20 + n % 4} piece{30 + n} piece{40 + n % 2}" for n in range(8)]
EXAMPLES = [
    CaptionExample(pixels, text, f"picture {n // 2}")
    for n, (pixels, text) in enumerate(zip(PIXELS, TEXTS, strict=True))
]
"""Eight pictures, two at a time of one thing."""


def some_rows(step: int, part: int) -> list[int]:
    rows: list[int] = np.random.default_rng([step, part]).permutation(8)[:6].tolist()
    return rows


def text_batch(step: int, part: int) -> TextBatch:
    return collate_texts(TOKENIZER, [EXAMPLES[row] for row in some_rows(step, part)])


def setup(
    batches: Callable[[int, int], B],
    evaluator: Callable[[M], Mapping[str, float]] = lambda model: {"metric": 0.0},
    **changes: Any,
) -> Setup[M, B]:
    values: dict[str, Any] = {
        "batches": batches,
        "evaluator": evaluator,
        "goal": Goal("metric"),
        "steps_per_epoch": 4,
        "learning_rates": LearningRates(vision_tower=1e-3, rest=2e-3),
    }
    return Setup(**{**values, **changes})


@torch.no_grad()
def calm(model: M) -> M:
    """A model whose embeddings are as small as BERT's: torch's own make logits that no toy gets over quickly."""
    for name, each in model.named_parameters():
        if name.endswith(("word.weight", "position.weight", "token_type.weight")):
            each.mul_(0.1 if "word" in name else 0.02)
    return model


class Loop:
    """What a trainer does in a step."""

    def __init__(self, experiment: Experiment, parts: int = 1) -> None:
        self.experiment = experiment
        self.parts = parts
        groups = experiment.parameter_groups()
        self.optimizer = torch.optim.AdamW(
            [{"params": [each for _, each in group.parameters], "lr": group.lr} for group in groups]
        )

    def step(self, step: int) -> dict[str, float]:
        self.experiment.model.train()
        self.optimizer.zero_grad()
        sums: dict[str, float] = {}
        for part in range(self.parts):
            torch.manual_seed(1000 * step + part)
            terms = self.experiment.losses(step, part)
            total(terms.values()).backward()  # type: ignore[no-untyped-call]
            sums = {name: sums.get(name, 0.0) + term.item() for name, term in terms.items()}
        self.optimizer.step()
        self.experiment.after_step(step)
        return sums

    def run(self, steps: Sequence[int] | range) -> list[dict[str, float]]:
        return [self.step(step) for step in steps]

    def checkpoint(self) -> dict[str, Any]:
        state = {
            "model": self.experiment.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "experiment": dict(self.experiment.state()),
        }
        return copy.deepcopy(state)

    def restore(self, state: dict[str, Any]) -> None:
        self.experiment.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.experiment.restore(state["experiment"])


def total(terms: Any) -> Tensor:
    return torch.stack(list(terms)).sum()


def check_restored(make: Callable[[int], Experiment]) -> None:
    """A run that is broken off goes on in new weights with the losses of an unbroken one."""
    unbroken = Loop(make(0))
    first = unbroken.run(range(3))
    state = unbroken.checkpoint()
    rest = unbroken.run(range(3, 6))
    resumed = Loop(make(1))
    resumed.restore(state)
    assert resumed.run(range(3, 6)) == rest
    assert first != rest


def golden_texts(case: GoldenCase, name: str, **changes: Any) -> TextBatch:
    """The picture of a golden case, normalised as it is stored, with one of its texts."""
    io = case.io
    values: dict[str, Any] = {
        "pixels": io["image"],
        "ids_BL": io[f"{name}_input_ids"],
        "mask_BL": io[f"{name}_attention_mask"].bool(),
        "identity_B": torch.arange(len(io["image"])),
        "given_B": torch.zeros(len(io["image"]), dtype=torch.int64),
    }
    return TextBatch(**{**values, **changes})
