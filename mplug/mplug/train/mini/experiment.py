"""A stage of mplug-mini as the one trainer sees it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mplug.checkpoints import native
from mplug.loading import find_folder
from mplug.train.experiment import Goal, ParameterGroup
from mplug.train.experiments.base import evaluating
from mplug.train.experiments.models import WholeModel
from mplug.train.mini.config import WholeStageConfig
from mplug.train.mini.matching import Matching
from mplug.train.mini.matching_start import start_matching
from mplug.train.mini.measuring import (
    CaptionScore,
    cider,
    measure_answers,
    measure_captions,
    measure_matching,
)
from mplug.train.mini.reading import StageData, open_data, some_pairs, written_texts
from mplug.train.mini.rewarding import Rewarding
from mplug.train.mini.whole import open_whole, start_output_bias
from mplug.train.mini.writing import Answering, Captioning
from mplug.train.parallel import own_device

_FUSION = ("fusion_encoder.", "itm_head.")
_HEAD = "text_decoder.head."


class Objective(Protocol):
    """One kind of losses."""

    def losses(self, number: int, chance: random.Random) -> Mapping[str, Tensor]:
        """Of a batch, counted from 0; `chance` is the batch's own."""
        ...


class WholeStage:
    """An `Experiment`: fusion encoder and decoder learn, the towers stand still.

    Args:
        model: whole.
        data: what is read.
        config: which losses, and how much of each.
        score: how captions of `dev` are judged.
    """

    def __init__(
        self, model: WholeModel, data: StageData, config: WholeStageConfig, *, score: CaptionScore = cider
    ) -> None:
        self.trained = model
        self.data = data
        self._config = config
        self._score = score
        kinds: dict[str, tuple[int, type[Any]]] = {
            "pairs": (config.batch.pairs, Matching),
            "captions": (config.batch.captioned, Captioning),
            "answers": (config.batch.questions, Answering),
            "rewards": (config.batch.rewarded, Rewarding),
        }
        self.objectives: dict[str, Objective] = {
            name: kind(model, data, config) for name, (size, kind) in kinds.items() if size
        }

    @property
    def model(self) -> WholeModel:
        """All that a checkpoint holds."""
        return self.trained

    @property
    def goal(self) -> Goal:
        """What is best."""
        return Goal(self._config.goal)

    @property
    def steps_per_epoch(self) -> int:
        """Steps between two evaluations."""
        return self._config.evaluation_steps

    @property
    def _writes(self) -> bool:
        return not self.objectives.keys() <= {"pairs"}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Fusion encoder and decoder; where nothing is written, only the decoder's output head."""
        named = list(self.trained.named_parameters())
        decoder = "text_decoder." if self._writes else _HEAD
        groups = [
            ParameterGroup(
                "fusion", [one for one in named if one[0].startswith(_FUSION)], self._config.fusion_lr
            ),
            ParameterGroup(
                "decoder", [one for one in named if one[0].startswith(decoder)], self._config.decoder_lr
            ),
        ]
        return [group for group in groups if group.lr > 0]

    def losses(self, step: int, part: int) -> Mapping[str, Tensor]:
        """Every objective's terms; see `Experiment`."""
        number = step * self._config.accumulate + part
        self.trained.train()
        found: dict[str, Tensor] = {}
        for name, objective in self.objectives.items():
            found |= objective.losses(number, random.Random(f"{self._config.seed} {name} {number}"))
        return found

    def after_step(self, step: int) -> None:
        """Nothing: there are no twins."""

    def state(self) -> Mapping[str, Any]:
        """Nothing: batches follow from their numbers."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """What `measuring.py` finds of what this stage trains; `writing` is the mean of English CIDEr and answers."""
        measure, found = self._config.measure, dict[str, float]()
        with evaluating(self.trained):
            if "pairs" in self.objectives:
                found |= measure_matching(self.trained, self.data, measure)
            if self.objectives.keys() & {"captions", "rewards"}:
                found |= measure_captions(self.trained, self.data, measure, self._score)
            if "answers" in self.objectives:
                found |= measure_answers(self.trained, self.data, measure)
        judged = [found[name] for name in ("cider_en", "answers") if name in found]
        return {**found, "writing": sum(judged) / len(judged)} if judged else found

    def save(self, folder: Path) -> None:
        """Write the whole model, for every task."""
        native.save(self.trained, folder)

    def export(self, best: Path, folder: Path) -> None:
        """Write the best model as it ships; what stands still rounds to itself."""
        native.save(native.load(best, WholeModel), folder, storage="int8")


def open_stage(config: WholeStageConfig, data: Path) -> WholeStage:
    """Opens a stage's model and data.

    Args:
        config: of a recipe.
        data: the data folder.

    Raises:
        MplugError: no such start, or data that cannot be read.
    """
    torch.manual_seed(config.seed)  # parts that the start lacks are drawn from it
    start = find_folder(config.start)
    model = open_whole(start, config.shape).to(own_device())
    read = open_data(data, config, model)
    if native.read_config(start / native.CONFIG_FILE).text_decoder is None:
        start_output_bias(model, written_texts(read))
        start_matching(model, *some_pairs(read))
    return WholeStage(model, read, config)
