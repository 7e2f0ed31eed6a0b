"""From a recipe's configuration to its model and what its experiment is handed.

model = start_model(config, MatchingModel)
experiment = RetrievalExperiment(model, config.objective, setup_of(config, batches, evaluator, steps_per_epoch=900))
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from mplug.checkpoints import native
from mplug.checkpoints.resolution import at_image_size
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
from mplug.train.experiments.base import VISION_TOWER, Setup
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.recipes import MplugRunConfig, PretrainConfig
from mplug.train.experiments.starting import take_over, with_backbone

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=TaskModel)
B = TypeVar("B")


def start_model(config: MplugRunConfig, kind: type[M]) -> M:
    """The model that training starts from, at the recipe's image size and length of text.

    Args:
        config: names it, and perhaps another vision tower for it.
        kind: what is trained, such as `MatchingModel` or `CaptionModel`.

    Raises:
        MplugError: no start is named, or it lacks what the task needs; an unknown tower.
    """
    if not config.start:
        raise MplugError("start is empty: name the model to fine-tune, a folder, with --set start=FOLDER")
    if config.backbone:
        model = _with_another_tower(load_as(config.start, kind), kind, config)
    else:
        model = load_as(config.start, kind, image_size=config.image_size)
    model.config = dataclasses.replace(model.config, max_text_tokens=config.max_text_tokens)
    model.tokenizer.max_length = config.max_text_tokens
    return model


def new_model(config: PretrainConfig) -> WholeModel:
    """A model made anew: at random, or its text side from a BERT.

    Args:
        config: its shape, its vocabulary, and the tower and BERT that replace parts of it.

    Raises:
        MplugError: neither a vocabulary nor a BERT, or parts that do not fit each other.
    """
    bert = read_bert(Path(config.bert)) if config.bert else None
    if not config.vocabulary and bert is None:
        raise MplugError(
            "there is no vocabulary: name one with --set vocabulary=FILE, or a BERT folder with --set bert=FOLDER"
        )
    file = Path(config.vocabulary or Path(config.bert) / "vocab.txt")
    if not file.is_file():
        raise MplugError(f"vocabulary {file} is no file: name a vocab.txt, one piece a line")
    shape = _shape(config)
    tokenizer = WordPieceTokenizer.from_file(
        file, max_length=shape.max_text_tokens, lower_case=shape.lower_case
    )
    model = WholeModel(shape, tokenizer)
    if bert is not None:
        _start_text_side(model, bert)
    return at_image_size(model, config.image_size)


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
    shape = _read_shape(config) if config.shape else config.model
    shape = dataclasses.replace(shape, max_text_tokens=config.max_text_tokens)
    return _seeing(shape, config.backbone, config.image_size) if config.backbone else shape


def _read_shape(config: PretrainConfig) -> MplugConfig:
    """Another model's shape; what it is called and may be used for is not taken over."""
    path = Path(config.shape)
    file = path / native.CONFIG_FILE if path.is_dir() else path
    return dataclasses.replace(native.read_config(file), name=config.model.name, licence=config.model.licence)


def _seeing(shape: MplugConfig, backbone: str, image_size: int) -> MplugConfig:
    preprocess = dataclasses.replace(shape.preprocess, image_size=image_size)
    return with_backbone(dataclasses.replace(shape, preprocess=preprocess), backbone)


def _with_another_tower(model: M, kind: type[M], config: MplugRunConfig) -> M:
    """All but the tower, and an adapter of another width, is the model's."""
    new = kind(_seeing(model.config, config.backbone, config.image_size), model.tokenizer)
    fresh = take_over(new, model, but=VISION_TOWER)
    logger.info("%s: %d tensors of %s begin at random", config.start, len(fresh), config.backbone)
    return new.eval()


def _start_text_side(model: WholeModel, bert: Bert) -> None:
    vocab = model.tokenizer.vocab
    start_text_encoder(model.text_encoder, bert, vocab)
    start_fusion_encoder(model.fusion_encoder, bert)
    start_decoder(model.text_decoder, bert, vocab)
