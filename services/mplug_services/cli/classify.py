"""Judge texts: by a model's own labels, by given ones, by known questions, or by the spans that it finds.

With --pair, or "text2" in a file, two texts are judged together. With --labels a model of entailment is asked which of
the labels a text entails. With --known, a file of JSON lines {"text", "label"}, an FAQ model says which of these
questions a text asks. With --json each result is a JSON object a line: {"labels": [{"label", "score"}]}, best first, or
{"spans": [{"label", "start", "end", "text", "score"}]}, or {"error"}.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table

from mplug_services.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    Refusal,
    UsageError,
    messages,
    report_refusals,
    results,
)
from mplug_services.cli.texts import (
    Line,
    add_text_arguments,
    open_judge,
    print_json,
    read_json_lines,
    read_lines,
)
from mplug_services.client import ClassifyOutcome, KnownQuestion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--pair", metavar="TEXT", help="a second text, to be judged with each")
    parser.add_argument("--labels", metavar="A,B,...", help="labels that the model has never seen")
    parser.add_argument(
        "--template", default="{}", metavar="TEXT", help="with --labels: a sentence with {} for the label"
    )
    parser.add_argument("--multi-label", action="store_true", help="with --labels: score each label alone")
    parser.add_argument("--known", metavar="FILE", help="JSON lines of questions whose answers are known")
    parser.add_argument("--top", type=int, metavar="N", help="show the N best labels (default: all)")
    add_text_arguments(parser, "StructBERT, plug_mental or PLUG's encoder")


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    lines = read_lines(options)
    if options.pair is not None:
        lines = [replace(line, pair=options.pair) for line in lines]
    if not lines:
        raise UsageError("give a TEXT, or --input FILE")
    labels = [label.strip() for label in options.labels.split(",")] if options.labels else []
    known = _known_questions(options.known) if options.known else []
    if labels and known:
        raise UsageError("--labels and --known are two ways of judging: give one of both")
    if options.top is not None and options.top < 1:
        raise UsageError(f"--top takes a number of labels from 1 on, not {options.top}")
    judge = open_judge(options, "zero-shot-classification" if labels else "")
    try:
        outcomes = judge.classify(
            [line.source for line in lines],
            labels=labels,
            template=options.template,
            multi_label=options.multi_label,
            known_questions=known,
            model=options.served_model,
        )
    finally:
        judge.close()
    for line, outcome in zip(lines, outcomes, strict=True):
        _show(line, outcome, options)
    refusals = [
        Refusal(line.id or line.text[:40], str(outcome.error))
        for line, outcome in zip(lines, outcomes, strict=True)
        if outcome.error is not None
    ]
    report_refusals(messages(), refusals, "refused")
    return EXIT_REFUSED if refusals else EXIT_OK


def _known_questions(file: str) -> Sequence[KnownQuestion]:
    questions = []
    for place, value in read_json_lines(file):
        try:
            questions.append(KnownQuestion(str(value["text"]), str(value["label"])))
        except (KeyError, TypeError) as error:
            raise UsageError(f'{place} is no object with "text" and "label"') from error
    if not questions:
        raise UsageError(f"{file} holds no questions")
    return questions


def _show(line: Line, outcome: ClassifyOutcome, options: argparse.Namespace) -> None:
    if options.json:
        print_json(line.facts(**_facts(outcome, options.top)))
    elif outcome.error is None:
        results().print(_table(line, outcome, options.top))


# Any: JSON.
def _facts(outcome: ClassifyOutcome, top: int | None) -> dict[str, Any]:
    if outcome.error is not None:
        return {"error": str(outcome.error)}
    facts: dict[str, Any] = (
        {"labels": [asdict(each) for each in outcome.labels[:top]]}
        if outcome.labels
        else {"spans": [asdict(each) for each in outcome.spans]}
    )
    return {**facts, "truncated": True} if outcome.truncated else facts


def _table(line: Line, outcome: ClassifyOutcome, top: int | None) -> Table:
    title = line.text if line.pair is None else f"{line.text} | {line.pair}"
    if outcome.labels:
        table = Table("label", "score", title=title, title_justify="left")
        for each in outcome.labels[:top]:
            table.add_row(each.label, f"{each.score:.3f}")
        return table
    table = Table("span", "label", "score", title=title, title_justify="left")
    for span in outcome.spans:
        table.add_row(span.text, span.label, f"{span.score:.3f}")
    return table
