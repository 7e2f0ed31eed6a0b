"""Pretraining on a user's own rows: from a configuration and data to the experiment that the trainer runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mplug.errors import MplugError
from mplug.text.tokenizer import Tokenizer
from mplug.train.bert_init import read_bert
from mplug.train.experiments.base import Setup
from mplug.train.experiments.batches import TextBatch, collate_texts, tokenize
from mplug.train.experiments.building import new_model, start_model
from mplug.train.experiments.feeding import EvaluationPictures
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.pretraining import PretrainingExperiment
from mplug.train.experiments.recipes import PretrainConfig
from mplug.train.experiments.row_setup import caption_maker, pictures, search_evaluator, setup_on
from mplug.train.experiments.user_data import UserData, dev_pictures, open_data
from mplug.train.parallel import own_device
from mplug.train.readers import Data


def pretraining(config: PretrainConfig, data: Data) -> PretrainingExperiment:
    """All objectives that have a weight; an epoch has as many pictures as there are captions.

    Measured are recall, where contrast or matching is trained, and the shares of masked and of next words that are
    guessed right, where these are.

    Args:
        config: of the run.
        data: rows with `image` and `captions`.

    Raises:
        MplugError: as `open_data`, there is nothing to start from, or a goal that the objectives do not train.
    """
    _check(config)
    torch.manual_seed(config.seed)  # what begins at random is drawn from it
    model = (start_model(config, WholeModel) if config.start else new_model(config)).to(own_device())
    rows = open_data(config, data, "pretrain")
    collate = partial(collate_texts, model.tokenizer)
    setup: Setup[WholeModel, TextBatch] = setup_on(
        config, rows, caption_maker(config, rows), collate, _evaluator(config, rows)
    )
    places, texts = dev_pictures(rows)
    held_out = _FirstTexts(model.tokenizer, pictures(config, places, list(texts)), texts)
    bert = read_bert(Path(config.bert)) if config.bert else None
    return PretrainingExperiment(model, config.objective, setup, bert=bert, held_out=held_out)


@dataclass(frozen=True, slots=True)
class _FirstTexts:
    """Pictures, each with the first of its texts."""

    tokenizer: Tokenizer
    pictures: EvaluationPictures
    texts: Mapping[str, Sequence[str]]

    def __call__(self) -> Iterator[TextBatch]:
        for batch in self.pictures():
            ids_BL, mask_BL = tokenize(self.tokenizer, [self.texts[key][0] for key in batch.keys])
            count = len(batch.keys)
            yield TextBatch(
                batch.pixels,
                ids_BL,
                mask_BL,
                identity_B=torch.arange(count),
                given_B=torch.zeros(count, dtype=torch.int64),
            )


def _evaluator(config: PretrainConfig, rows: UserData) -> Callable[[WholeModel], Mapping[str, float]]:
    if config.objective.itc_weight or config.objective.itm_weight:
        return search_evaluator(config, rows)
    return lambda model: {}


def _check(config: PretrainConfig) -> None:
    if config.start and (config.bert or config.vocabulary):
        raise MplugError(
            f"{config.start} has weights and a vocabulary of its own: leave out start, or bert and vocabulary"
        )
    weight = _weight_behind(config.goal)
    if not getattr(config.objective, weight):
        raise MplugError(
            f"goal={config.goal} measures what {weight}=0 leaves untrained: choose checkpoints by another metric, "
            "--set goal=r_mean (matching), text_to_image_itc_r1 (contrast), masked_words or next_words"
        )


def _weight_behind(goal: str) -> str:
    """The weight without which a metric means nothing."""
    words = {"masked_words": "mlm_weight", "next_words": "prefix_lm_weight"}
    return words.get(goal, "itc_weight" if "_itc_" in goal else "itm_weight")
