"""Fine-tuning on a user's own rows: from a configuration and a path to the experiment that the trainer runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from mplug.captioning import CaptionModel
from mplug.errors import MplugError
from mplug.evaluation import captions, vqa
from mplug.evaluation.question_only import QuestionOnly
from mplug.evaluation.tokenization import coco_metrics_folder
from mplug.task_model import TaskModel
from mplug.train.experiments.answering import AnswerExperiment
from mplug.train.experiments.base import Setup
from mplug.train.experiments.batches import (
    AnswerBatch,
    AnswerExample,
    CaptionExample,
    TextBatch,
    collate_answers,
    collate_texts,
)
from mplug.train.experiments.building import setup_of, start_model
from mplug.train.experiments.captioning import CaptionExperiment
from mplug.train.experiments.evaluators import AnswerEvaluator, CaptionEvaluator, Score
from mplug.train.experiments.feeding import EvaluationPictures, Feed, Prepare, training_pixels
from mplug.train.experiments.models import MatchingModel
from mplug.train.experiments.recipes import CaptionConfig, FinetuneConfig, RetrievalConfig, VqaConfig
from mplug.train.experiments.retrieval import RetrievalExperiment
from mplug.train.experiments.search_evaluator import SearchEvaluator
from mplug.train.experiments.user_data import UserData, captions_by_picture, open_data, texts_of
from mplug.train.readers.example import Example
from mplug.train.readers.mixture import Draw, Mixture
from mplug.train.readers.source import Source
from mplug.vqa import VqaModel

M = TypeVar("M", bound=TaskModel)
E = TypeVar("E")
B = TypeVar("B")


def captioning(config: CaptionConfig, where: Path) -> CaptionExperiment:
    """Captions by cross-entropy; an epoch has as many pictures as there are captions.

    Args:
        config: of the run.
        where: rows with `image` and `captions`, as `open_source` takes them.

    Raises:
        MplugError: as `open_data`, or there is no start, or pycocoevalcap is not installed.
    """
    coco_metrics_folder()  # else its lack would be found out after the first epoch
    model = _start(config, CaptionModel)
    data = open_data(config, where, "caption")
    rows, references = captions_by_picture(data.dev)
    prompt = model.tokenizer.decode(model.tokenizer.encode(config.prompt).ids.tolist())
    evaluator = CaptionEvaluator(
        batches=_pictures(config, data.dev, rows, list(references)),
        score=_caption_score(references, "en" if _is_english(data.dev) else "zh", prompt),
        prompt=config.prompt,
    )
    collate = partial(collate_texts, model.tokenizer, prompt=config.prompt)
    setup: Setup[CaptionModel, TextBatch] = _setup(
        config, data, _caption_maker(config, data), collate, evaluator
    )
    return CaptionExperiment(model, config.objective, setup)


def answering(config: VqaConfig, where: Path) -> AnswerExperiment:
    """Answers to questions, measured beside the question-only baseline.

    Args:
        config: of the run.
        where: rows with `image`, `question` and `answers`, as `open_source` takes them.

    Raises:
        MplugError: as `open_data`, or there is no start, or the file of choices cannot be read.
    """
    model = _start(config, VqaModel)
    data = open_data(config, where, "vqa")
    asked = _questions(data.dev)
    keys = [str(number) for number in range(len(asked))]
    rows = list(data.dev.references())
    evaluator = AnswerEvaluator(
        batches=_pictures(config, data.dev, rows, keys, [each.question for each in asked]),
        score=_answer_score(_questions(data.train), dict(zip(keys, asked, strict=True))),
        choices=_choices(config.choices_file),
    )

    def prepare(example: Example, draw: Draw, chance: random.Random) -> AnswerExample:
        pixels = training_pixels(example, config.image_size, config.augment, chance)
        texts = tuple(answer.text for answer in example.answers)
        return AnswerExample(
            pixels, example.question, texts, tuple(answer.weight for answer in example.answers)
        )

    collate = partial(collate_answers, model.tokenizer)
    setup: Setup[VqaModel, AnswerBatch] = _setup(config, data, prepare, collate, evaluator)
    return AnswerExperiment(model, setup)


def retrieval(config: RetrievalConfig, where: Path) -> RetrievalExperiment:
    """Contrast and matching; an epoch has as many pictures as there are captions.

    Args:
        config: of the run.
        where: rows with `image` and `captions`, as `open_source` takes them.

    Raises:
        MplugError: as `open_data`, or there is no start.
    """
    model = _start(config, MatchingModel)
    data = open_data(config, where, "retrieval")
    rows, texts = captions_by_picture(data.dev)
    evaluator = SearchEvaluator(
        batches=_pictures(config, data.dev, rows, list(texts)), texts=texts, rerank_top=config.rerank_top
    )
    collate = partial(collate_texts, model.tokenizer)
    setup: Setup[MatchingModel, TextBatch] = _setup(
        config, data, _caption_maker(config, data), collate, evaluator
    )
    return RetrievalExperiment(model, config.objective, setup)


def _start(config: FinetuneConfig, kind: type[M]) -> M:
    model = start_model(config, kind)
    return model.to("cuda") if torch.cuda.is_available() else model


def _setup(
    config: FinetuneConfig,
    data: UserData,
    prepare: Prepare[E],
    collate: Callable[[Sequence[E]], B],
    evaluator: Callable[[M], Mapping[str, float]],
) -> Setup[M, B]:
    feed = Feed(
        Mixture([(data.train, 1.0)]),
        prepare,
        collate,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=config.seed,
        threads=config.threads,
    )
    in_epoch = sum(len(texts_of(example)) or 1 for example in data.train)
    in_step = config.batch_size * config.accumulate
    if in_epoch < in_step:
        raise MplugError(
            f"a step takes {in_step} pictures and texts and there are {in_epoch} to train on: lower batch_size "
            f"({config.batch_size}) or accumulate ({config.accumulate})."
        )
    return setup_of(config, feed, evaluator, steps_per_epoch=in_epoch // in_step)


def _pictures(
    config: FinetuneConfig,
    source: Source[Any],
    rows: Sequence[Any],
    keys: Sequence[str],
    questions: Sequence[str] = (),
) -> EvaluationPictures:
    return EvaluationPictures(
        source,
        rows,
        keys,
        questions,
        image_size=config.image_size,
        batch_size=config.batch_size,
        threads=config.threads,
    )


def _caption_maker(config: FinetuneConfig, data: UserData) -> Prepare[CaptionExample]:
    """A row's captions take turns: each comes once before one comes again."""
    num_rows = data.train.num_examples()

    def prepare(example: Example, draw: Draw, chance: random.Random) -> CaptionExample:
        texts = texts_of(example)
        pixels = training_pixels(example, config.image_size, config.augment, chance)
        return CaptionExample(pixels, texts[draw.number // num_rows % len(texts)], example.identity)

    return prepare


def _caption_score(references: Mapping[str, Sequence[str]], language: str, prompt: str) -> Score:
    def score(written: Mapping[str, str]) -> Mapping[str, float]:
        spoken = {key: text.removeprefix(prompt).strip() for key, text in written.items()}
        # Without Java wherever the run is: checkpoints of a run that moves to another machine stay comparable.
        return captions.score(spoken, references, language, java=False).metrics()

    return score


def _is_english(source: Source[Any]) -> bool:
    return any(example.captions for example in source)


class _Question(NamedTuple):
    """What is kept of a row: not its picture, which may be in memory."""

    question: str
    given: list[str]
    kind: str


def _questions(source: Source[Any]) -> list[_Question]:
    return [_Question(example.question, _given(example), example.kind) for example in source]


def _answer_score(trained: Sequence[_Question], asked: Mapping[str, _Question]) -> Score:
    baseline = QuestionOnly(
        [each.question for each in trained], [each.given for each in trained], [each.kind for each in trained]
    )

    def score(written: Mapping[str, str]) -> Mapping[str, float]:
        answered = [asked[key] for key in written]
        types = [each.kind for each in answered]
        guesses = baseline.guesses([each.question for each in answered], types)
        return vqa.score(list(written.values()), guesses, [each.given for each in answered], types).metrics()

    return score


def _given(example: Example) -> list[str]:
    """People's answers: where the weights are shares of ten people as many as there were, else each answer once."""
    tenths = [answer.weight * vqa.VOTES for answer in example.answers]
    counts = [round(tenth) for tenth in tenths]
    of_ten = sum(counts) == vqa.VOTES and all(map(math.isclose, tenths, counts))
    return [
        answer.text
        for answer, count in zip(example.answers, counts, strict=True)
        for _ in range(count if of_ten else 1)
    ]


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
