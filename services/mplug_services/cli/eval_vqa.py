"""Measure the answers of a model, or of a server's, beside what the questions alone give away.

FOLDER holds vqa.jsonl, a JSON object a line with "image" (a path inside FOLDER), "question", "answers" and perhaps
"type" and "lang", and the pictures. A picture is in the split that captions.jsonl, where it is there, has it in.

Accuracy is the VQA challenge's: answers are compared without case, articles, punctuation and number words; of ten
people's answers three that agree make an answer wholly right, of fewer each does. "question only" guesses the most
frequent answer of the training questions, to the same question or to its type, whichever does better on these rows.

--sheet draws 7 of the best, 6 median and 7 of the worst answers, equals in an order of no one's choosing.
"""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from mplug.errors import MplugError
from mplug.evaluation import vqa
from mplug.evaluation.examples import choose_examples
from mplug.evaluation.noise import changed_share
from mplug.evaluation.question_only import QuestionOnly
from mplug_services.cli.common import EXIT_OK, UsageError, results
from mplug_services.cli.eval_data import (
    Item,
    Shown,
    add_data_arguments,
    add_text_arguments,
    check_arguments,
    chosen,
    generate_texts,
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
    add_text_arguments(parser)
    add_generation_arguments(parser)
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation."""
    check_arguments(options)
    rows = _read(options)
    baseline = _baseline(rows, options)
    kept = chosen(rows, options)
    items = [Item(f"{row.path} {row.question}", options.data / row.path, row.question) for row in kept]
    runner = open_runner(TASK, options)
    try:
        answers = generate_texts(runner, items, options)
        blind = generate_texts(runner, items, options, noise=True) if options.noise else None
    finally:
        runner.close()
    types = [row.type for row in kept]
    guesses = baseline.guesses([row.question for row in kept], types)
    scores = vqa.score(answers, guesses, [row.answers for row in kept], types)
    if options.sheet is not None:
        title = f"{runner.model_name}: answers of {options.split}, {scores.overall.accuracy:.1f} % over {len(kept)}"
        write_examples(options.sheet, title, _examples(kept, items, answers))
    changed = changed_share(answers, blind) if blind is not None else None
    if options.json:
        facts = {"model": runner.model_name, "split": options.split, **_facts(scores)}
        print(json.dumps({**facts, "changed_by_noise": changed}, ensure_ascii=False))
    else:
        _print(f"{len(kept)} answers of {options.split} by {runner.model_name}", scores, changed)
    return EXIT_OK


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


def _facts(scores: vqa.VqaScores) -> dict[str, object]:
    return {**_type_facts(scores.overall), "types": {k: _type_facts(v) for k, v in scores.by_type.items()}}


def _type_facts(score: vqa.TypeScore) -> dict[str, float]:
    return {"questions": score.count, "accuracy": score.accuracy, "question_only": score.question_only}


def _print(title: str, scores: vqa.VqaScores, changed: float | None) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("type", no_wrap=True)
    for column in ("questions", "accuracy %", "question only %", "gain"):
        table.add_column(column, justify="right")
    named = [*((kind or "(none)", each) for kind, each in scores.by_type.items()), ("all", scores.overall)]
    for kind, each in named:
        cells = [f"{each.accuracy:.1f}", f"{each.question_only:.1f}", f"{each.gain:+.1f}"]
        table.add_row(kind, str(each.count), *cells, end_section=kind == named[-2][0])
    results().print(table)
    if changed is not None:
        results().print(f"changed by noise: {changed:.1f} %")
