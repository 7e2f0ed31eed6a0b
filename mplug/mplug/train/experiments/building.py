"""From a recipe's configuration to its model and what its experiment is handed.

model = start_model(config, MatchingModel)
experiment = RetrievalExperiment(model, config.objective, setup_of(config, batches, evaluator, steps_per_epoch=900))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from mplug.config import MplugConfig
from mplug.errors import MplugError
from mplug.loading import load_as
from mplug.task_model import TaskModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.train.bert_init import (
    Bert,
    read_bert,
    start_decoder,
    start_fusion_encoder,
    start_text_encoder,
)
from mplug.train.experiment import Goal
from mplug.train.experiments.base import Setup
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.recipes import FinetuneConfig, MplugRunConfig, PretrainConfig
from mplug.train.experiments.starting import with_backbone

M = TypeVar("M", bound=TaskModel)
B = TypeVar("B")


def start_model(config: FinetuneConfig, kind: type[M]) -> M:
    """The model that fine-tuning starts from, at the recipe's image size and length of text.

    Args:
        config: names it.
        kind: what is trained, such as `MatchingModel` or `CaptionModel`.

    Raises:
        MplugError: no start is named, or it lacks what the task needs.
    """
    if not config.start:
        raise MplugError("start is empty: name the model to fine-tune, a folder, with --set start=FOLDER")
    model = load_as(config.start, kind, image_size=config.image_size)
    model.config = dataclasses.replace(model.config, max_text_tokens=config.max_text_tokens)
    model.tokenizer.max_length = config.max_text_tokens
    return model


def new_model(config: PretrainConfig, *, vocabulary: Path | None = None) -> WholeModel:
    """The model that pretraining starts from: at random, or its text side from a BERT.

    Args:
        config: its shape, and the tower and BERT that replace parts of it.
        vocabulary: a `vocab.txt`; None = BERT's.

    Raises:
        MplugError: neither a vocabulary nor a BERT, or parts that do not fit each other.
    """
    bert = read_bert(Path(config.bert)) if config.bert else None
    if vocabulary is None and bert is None:
        raise MplugError("there is no vocabulary: give one, or a BERT folder with --set bert=FOLDER")
    shape = _shape(config)
    file = vocabulary or Path(config.bert) / "vocab.txt"
    tokenizer = WordPieceTokenizer.from_file(
        file, max_length=shape.max_text_tokens, lower_case=shape.lower_case
    )
    model = WholeModel(shape, tokenizer)
    if bert is not None:
        _start_text_side(model, bert)
    return model


def setup_of(
    config: MplugRunConfig,
    batches: Callable[[int, int], B],
    evaluator: Callable[[M], Mapping[str, float]],
    *,
    steps_per_epoch: int,
) -> Setup[M, B]:
    """What an experiment is handed beside its model and its objective; see `Setup`."""
    return Setup(
        batches=batches,
        evaluator=evaluator,
        goal=Goal(config.goal),
        steps_per_epoch=steps_per_epoch,
        learning_rates=config.learning_rates,
        recomputed=config.recomputed,
    )


def _shape(config: PretrainConfig) -> MplugConfig:
    shape = dataclasses.replace(config.model, max_text_tokens=config.max_text_tokens)
    if config.backbone or config.image_size != shape.preprocess.image_size:
        preprocess = dataclasses.replace(shape.preprocess, image_size=config.image_size)
        shape = dataclasses.replace(shape, preprocess=preprocess)
        shape = with_backbone(shape, config.backbone or shape.image_encoder.backbone)
    return shape


def _start_text_side(model: WholeModel, bert: Bert) -> None:
    vocab = model.tokenizer.vocab
    start_text_encoder(model.text_encoder, bert, vocab)
    start_fusion_encoder(model.fusion_encoder, bert)
    start_decoder(model.text_decoder, bert, vocab)
