"""Fine-tuning on a user's own rows: from a configuration and data to the experiment that the trainer runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from mplug.captioning import CaptionModel
from mplug.errors import MplugError
from mplug.evaluation.tokenization import coco_metrics_folder, tokenization_for
from mplug.task_model import TaskModel
from mplug.train.experiments.answering import AnswerExperiment
from mplug.train.experiments.base import Setup
from mplug.train.experiments.batches import (
    AnswerBatch,
    AnswerExample,
    PictureBatch,
    TextBatch,
    collate_answers,
    collate_pictures,
    collate_texts,
)
from mplug.train.experiments.building import start_model
from mplug.train.experiments.captioning import CaptionExperiment
from mplug.train.experiments.evaluators import AnswerEvaluator, CaptionEvaluator
from mplug.train.experiments.feeding import Prepare, training_pixels
from mplug.train.experiments.models import MatchingModel
from mplug.train.experiments.recipes import (
    CaptionConfig,
    MplugRunConfig,
    RetrievalConfig,
    ScstConfig,
    VqaConfig,
)
from mplug.train.experiments.retrieval import RetrievalExperiment
from mplug.train.experiments.row_scores import (
    answer_score,
    as_written,
    asked,
    caption_score,
    language_of,
    without_prompt,
)
from mplug.train.experiments.row_setup import (
    caption_maker,
    picture_maker,
    pictures,
    search_evaluator,
    setup_on,
)
from mplug.train.experiments.scst import Reward, ScstExperiment, cider_reward
from mplug.train.experiments.user_data import UserData, captions_by_picture, dev_pictures, open_data
from mplug.train.parallel import own_device
from mplug.train.readers import Data
from mplug.train.readers.example import Example
from mplug.train.readers.mixture import Draw
from mplug.vqa import VqaModel

M = TypeVar("M", bound=TaskModel)


def captioning(config: CaptionConfig, data: Data) -> CaptionExperiment:
    """Captions by cross-entropy; an epoch has as many pictures as there are captions.

    Args:
        config: of the run.
        data: rows with `image` and `captions`.

    Raises:
        MplugError: as `open_data`, or there is no start, or pycocoevalcap is not installed.
    """
    coco_metrics_folder()  # else its lack would be found out after the first epoch
    model = _start(config, CaptionModel)
    rows = open_data(config, data, "caption")
    evaluator = _caption_evaluator(config, model, rows, config.prompt)
    collate = partial(collate_texts, model.tokenizer, prompt=config.prompt)
    setup: Setup[CaptionModel, TextBatch] = setup_on(
        config, rows, caption_maker(config, rows), collate, evaluator
    )
    return CaptionExperiment(model, config.objective, setup)


def rewarded_captioning(config: ScstConfig, data: Data) -> ScstExperiment:
    """Captions by CIDEr against those of the picture, by a model that captions already.

    An epoch has as many pictures as there are captions, as in the reference. The reward's document frequencies are
    those of the training pictures, where the reference counts within a batch.

    Args:
        config: of the run.
        data: rows with `image` and `captions`.

    Raises:
        MplugError: as `captioning`.
    """
    coco_metrics_folder()
    model = _start(config, CaptionModel)
    rows = open_data(config, data, "caption")
    prompt = config.objective.prompt
    setup: Setup[CaptionModel, PictureBatch] = setup_on(
        config,
        rows,
        picture_maker(config),
        collate_pictures,
        _caption_evaluator(config, model, rows, prompt),
    )
    reward = _caption_reward(rows, as_written(model.tokenizer, prompt))
    return ScstExperiment(model, config.objective, setup, reward=reward)


def answering(config: VqaConfig, data: Data) -> AnswerExperiment:
    """Answers to questions, measured beside the question-only baseline.

    Args:
        config: of the run.
        data: rows with `image`, `question` and `answers`.

    Raises:
        MplugError: as `open_data`, or there is no start, or the file of choices cannot be read.
    """
    model = _start(config, VqaModel)
    rows = open_data(config, data, "vqa")
    questions = asked(example for _, example in rows.dev_rows())
    keys = [str(number) for number in range(len(questions))]
    places = [place for place, _ in rows.dev_rows()]
    evaluator = AnswerEvaluator(
        batches=pictures(config, places, keys, [each.question for each in questions]),
        score=answer_score(asked(rows.train_rows()), dict(zip(keys, questions, strict=True))),
        choices=_choices(config.choices_file),
    )
    collate = partial(collate_answers, model.tokenizer)
    setup: Setup[VqaModel, AnswerBatch] = setup_on(config, rows, _answer_maker(config), collate, evaluator)
    return AnswerExperiment(model, setup)


def retrieval(config: RetrievalConfig, data: Data) -> RetrievalExperiment:
    """Contrast and matching; an epoch has as many pictures as there are captions.

    Args:
        config: of the run.
        data: rows with `image` and `captions`.

    Raises:
        MplugError: as `open_data`, or there is no start.
    """
    model = _start(config, MatchingModel)
    rows = open_data(config, data, "retrieval")
    collate = partial(collate_texts, model.tokenizer)
    setup: Setup[MatchingModel, TextBatch] = setup_on(
        config, rows, caption_maker(config, rows), collate, search_evaluator(config, rows)
    )
    return RetrievalExperiment(model, config.objective, setup)


def _start(config: MplugRunConfig, kind: type[M]) -> M:
    torch.manual_seed(config.seed)  # another tower is drawn from it
    return start_model(config, kind).to(own_device())


def _caption_evaluator(
    config: MplugRunConfig, model: CaptionModel, rows: UserData, prompt: str
) -> CaptionEvaluator:
    places, references = dev_pictures(rows)
    language = language_of(example for _, example in rows.dev_rows())
    return CaptionEvaluator(
        batches=pictures(config, places, list(references)),
        score=caption_score(references, language, as_written(model.tokenizer, prompt)),
        prompt=prompt,
    )


def _caption_reward(rows: UserData, prompt: str) -> Reward:
    tokenization = tokenization_for(
        language_of(rows.train_rows()), java=False
    )  # which would start at every step
    rate = cider_reward(captions_by_picture(rows.train_rows()), tokenization)

    def reward(keys: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        return rate(keys, [without_prompt(text, prompt) for text in texts])

    return reward


def _answer_maker(config: VqaConfig) -> Prepare[AnswerExample]:
    def prepare(row: Example, draw: Draw, chance: random.Random) -> AnswerExample:
        pixels = training_pixels(row, config.image_size, config.augment, chance)
        texts = tuple(answer.text for answer in row.answers)
        return AnswerExample(pixels, row.question, texts, tuple(answer.weight for answer in row.answers))

    return prepare


def _choices(file: str) -> tuple[str, ...]:
    if not file:
        return ()
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MplugError(
            f"choices_file {file} cannot be read ({error}): name a file of one answer a line."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())
