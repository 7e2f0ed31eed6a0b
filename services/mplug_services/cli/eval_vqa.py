"""Measure the answers of a model, or of a server's, beside what the questions alone give away.

FOLDER holds vqa.jsonl, a JSON object a line with "image" (a path inside FOLDER), "question", "answers" and perhaps
"type" and "lang", and the pictures. A picture is in the split that captions.jsonl, where it is there, has it in.

Accuracy is the VQA challenge's: answers are compared without case, articles, punctuation and number words, and what
three others of ten people gave is wholly right. Where fewer than ten answered, k of n who agree count as 10 k / n.
"question only" guesses the most frequent answer of the training questions, to the same question or to its type,
whichever does better on these rows. With --answers FILE the model also chooses from those answers: "ranked".

--sheet draws 7 of the best, 6 median and 7 of the worst answers, equals in an order of no one's choosing.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mplug.errors import MplugError
from mplug.evaluation import vqa
from mplug.evaluation.examples import choose_examples
from mplug.evaluation.noise import changed_share
from mplug.evaluation.question_only import QuestionOnly
from mplug.pipelines import Runner
from mplug_services.cli.common import EXIT_OK, UsageError, results
from mplug_services.cli.eval_data import (
    Item,
    Shown,
    add_data_arguments,
    add_text_arguments,
    check_arguments,
    chosen,
    generate_texts,
    rank_texts,
    write_examples,
)
from mplug_services.cli.generation import add_generation_arguments, add_model_arguments, open_runner

if TYPE_CHECKING:
    from mplug.train.vqa_data import VqaRow

TASK = "visual-question-answering"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation's arguments."""
    add_data_arguments(parser)
    parser.add_argument("--language", metavar="LANG", help="only questions of this lang (default: all)")
    parser.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="answers to choose from, one a line; measured beside its own words",
    )
    parser.add_argument(
        "--rank-k",
        type=int,
        default=128,
        metavar="K",
        help="with --answers: how many, by their first token, are scored in full (default: %(default)s)",
    )
    add_text_arguments(parser)
    add_generation_arguments(parser)
    add_model_arguments(parser)


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model answers to each question."""

    own: Sequence[str]
    """In its own words."""
    ranked: Sequence[str] | None
    """The likeliest of given answers; None: there are none."""
    blind: Sequence[str] | None
    """In its own words to noise; None: it was not asked."""


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation."""
    check_arguments(options)
    choices = _choices(options)
    rows = _read(options)
    baseline = _baseline(rows, options)
    kept = chosen(rows, options)
    items = [Item(f"{row.path} {row.question}", options.data / row.path, row.question) for row in kept]
    runner = open_runner(TASK, options)
    try:
        answered = _answer(runner, items, choices, options)
    finally:
        runner.close()
    scores = _score(answered.own, kept, baseline)
    ranked = None if answered.ranked is None else _score(answered.ranked, kept, baseline)
    if options.sheet is not None:
        title = f"{runner.model_name}: answers of {options.split}, {scores.overall.accuracy:.1f} % over {len(kept)}"
        write_examples(options.sheet, title, _examples(kept, items, answered.own))
    changed = None if answered.blind is None else changed_share(answered.own, answered.blind)
    if options.json:
        facts = {"model": runner.model_name, "split": options.split, **_facts(scores, ranked)}
        print(json.dumps({**facts, "changed_by_noise": changed}, ensure_ascii=False))
    else:
        _print(f"{len(kept)} answers of {options.split} by {runner.model_name}", scores, ranked, changed)
    return EXIT_OK


def _answer(
    runner: Runner, items: Sequence[Item], choices: Sequence[str], options: argparse.Namespace
) -> Answered:
    return Answered(
        own=generate_texts(runner, items, options),
        ranked=rank_texts(runner, items, choices, options) if choices else None,
        blind=generate_texts(runner, items, options, noise=True) if options.noise else None,
    )


def _score(answers: Sequence[str], rows: "Sequence[VqaRow]", baseline: QuestionOnly) -> vqa.VqaScores:
    types = [row.type for row in rows]
    guesses = baseline.guesses([row.question for row in rows], types)
    return vqa.score(answers, guesses, [row.answers for row in rows], types)


def _choices(options: argparse.Namespace) -> list[str]:
    if options.rank_k < 1:
        raise UsageError(f"--rank-k takes a number of answers from 1 on, not {options.rank_k}")
    if options.answers is None:
        return []
    try:
        lines = options.answers.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--answers {options.answers} cannot be read: {error}") from error
    # Each once: which of two equal ones was chosen says nothing.
    choices = [*dict.fromkeys(line.strip() for line in lines if line.strip())]
    if not choices:
        raise UsageError(f"--answers {options.answers} holds no answers; give one a line")
    return choices


def _read(options: argparse.Namespace) -> "list[VqaRow]":
    from mplug.train.config import DataConfig
    from mplug.train.vqa_data import read_questions

    try:
        rows = read_questions(options.data, DataConfig())
    except MplugError as error:
        raise UsageError(f"--data {options.data}: {error}") from error
    return [row for row in rows if options.language in (None, row.language)]


def _baseline(rows: "Sequence[VqaRow]", options: argparse.Namespace) -> QuestionOnly:
    known = [row for row in rows if row.split == "train"]
    try:
        return QuestionOnly(
            [row.question for row in known], [row.answers for row in known], [row.type for row in known]
        )
    except ValueError as error:
        raise UsageError(
            f"--data {options.data} has no questions to train the baseline on: {error}"
        ) from error


def _examples(rows: "Sequence[VqaRow]", items: Sequence[Item], answers: Sequence[str]) -> list[Shown]:
    # A question may be asked twice of a picture; the later row then stands for both.
    by_id = {item.id: (row, answer) for item, row, answer in zip(items, rows, answers, strict=True)}
    scores = {id: 100 * vqa.accuracy(answer, row.answers) for id, (row, answer) in by_id.items()}
    images = {item.id: item.image for item in items}
    return [
        Shown(each, images[each.id], row.question, answer, row.answers)
        for each in choose_examples(scores)
        for row, answer in [by_id[each.id]]
    ]


def _facts(scores: vqa.VqaScores, ranked: vqa.VqaScores | None) -> dict[str, object]:
    theirs = {} if ranked is None else ranked.by_type
    types = {kind: _type_facts(each, theirs.get(kind)) for kind, each in scores.by_type.items()}
    overall = _type_facts(scores.overall, None if ranked is None else ranked.overall)
    return {**overall, "types": types, "fewer_than_ten_people": scores.num_scaled}


def _type_facts(score: vqa.TypeScore, ranked: vqa.TypeScore | None) -> dict[str, float]:
    facts = {"questions": score.count, "accuracy": score.accuracy, "question_only": score.question_only}
    return facts if ranked is None else {**facts, "ranked": ranked.accuracy}


def _print(title: str, scores: vqa.VqaScores, ranked: vqa.VqaScores | None, changed: float | None) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("type", no_wrap=True)
    columns = [
        "questions",
        "accuracy %",
        *([] if ranked is None else ["ranked %"]),
        "question only %",
        "gain",
    ]
    for column in columns:
        table.add_column(column, justify="right")
    named = [*((kind or "(none)", each) for kind, each in scores.by_type.items()), ("all", scores.overall)]
    theirs = [] if ranked is None else [*ranked.by_type.values(), ranked.overall]
    for number, (kind, each) in enumerate(named):
        cells = [
            str(each.count),
            f"{each.accuracy:.1f}",
            *(f"{one.accuracy:.1f}" for one in theirs[number : number + 1]),
        ]
        cells += [f"{each.question_only:.1f}", f"{each.gain:+.1f}"]
        table.add_row(kind, *cells, end_section=number == len(named) - 2)
    results().print(table)
    if scores.num_scaled:
        results().print(
            f"{scores.num_scaled} questions were answered by fewer than ten people, whose votes are scaled to ten"
        )
    if changed is not None:
        results().print(f"changed by noise: {changed:.1f} %")
