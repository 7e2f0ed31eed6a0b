"""What the experiments on a user's own rows share: batches out of them, and pictures to evaluate on."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mplug.errors import MplugError
from mplug.task_model import TaskModel
from mplug.train.experiments.base import Setup
from mplug.train.experiments.batches import CaptionExample
from mplug.train.experiments.building import setup_of
from mplug.train.experiments.feeding import EvaluationPictures, Feed, Prepare, training_pixels
from mplug.train.experiments.recipes import MplugRunConfig, PretrainConfig, RetrievalConfig
from mplug.train.experiments.search_evaluator import SearchEvaluator
from mplug.train.experiments.user_data import Place, UserData, dev_pictures, texts_of
from mplug.train.readers.example import Example
from mplug.train.readers.mixture import Draw, Mixture

M = TypeVar("M", bound=TaskModel)
E = TypeVar("E")
B = TypeVar("B")


def setup_on(
    config: MplugRunConfig,
    data: UserData,
    prepare: Prepare[E],
    collate: Callable[[Sequence[E]], B],
    evaluator: Callable[[M], Mapping[str, float]],
) -> Setup[M, B]:
    """Batches of a user's rows, and all else that an experiment is handed.

    An epoch has as many pictures as there are captions, or questions, times their weights. Of several parts each gives
    its share of the draws, so that a row comes as often as its weight says in the long run, not in every epoch.

    Raises:
        MplugError: fewer rows than a step takes.
    """
    in_epoch = [part.weight * sum(len(texts_of(row)) or 1 for row in part.source) for part in data.train]
    in_step = config.batch_size * config.accumulate
    if sum(in_epoch) < in_step:
        raise MplugError(
            f"a step takes {in_step} pictures and texts and there are {sum(in_epoch):g} to train on: lower batch_size "
            f"({config.batch_size}) or accumulate ({config.accumulate})."
        )
    feed = Feed(
        Mixture([(part.source, count) for part, count in zip(data.train, in_epoch, strict=True)]),
        prepare,
        collate,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=config.seed,
        threads=config.threads,
    )
    return setup_of(config, feed, evaluator, steps_per_epoch=int(sum(in_epoch)) // in_step)


def pictures(
    config: MplugRunConfig, places: Sequence[Place], keys: Sequence[str], questions: Sequence[str] = ()
) -> EvaluationPictures:
    """Pictures of rows as they are served; arguments as in `EvaluationPictures`."""
    return EvaluationPictures(
        places,
        keys,
        questions,
        image_size=config.image_size,
        batch_size=config.batch_size,
        threads=config.threads,
    )


def search_evaluator(config: RetrievalConfig | PretrainConfig, data: UserData) -> SearchEvaluator:
    """Recall among the pictures and texts that checkpoints are chosen by."""
    places, texts = dev_pictures(data)
    return SearchEvaluator(
        batches=pictures(config, places, list(texts)), texts=texts, rerank_top=config.rerank_top
    )


def caption_maker(config: MplugRunConfig, data: UserData) -> Prepare[CaptionExample]:
    """A picture with one of its row's captions, which take turns: each comes once before one comes again."""
    num_rows = {part.source: part.source.num_examples() for part in data.train}

    def prepare(row: Example, draw: Draw, chance: random.Random) -> CaptionExample:
        texts = texts_of(row)
        pixels = training_pixels(row, config.image_size, config.augment, chance)
        turn = draw.place // num_rows[draw.source]
        return CaptionExample(pixels, texts[turn % len(texts)], row.identity)

    return prepare


def picture_maker(config: MplugRunConfig) -> Prepare[CaptionExample]:
    """A picture by its name, for an experiment that writes the text itself."""

    def prepare(row: Example, draw: Draw, chance: random.Random) -> CaptionExample:
        pixels = training_pixels(row, config.image_size, config.augment, chance)
        return CaptionExample(pixels, "", row.image_name)

    return prepare
