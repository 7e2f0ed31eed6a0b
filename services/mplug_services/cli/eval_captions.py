"""Measure the captions of a model, or of a server's, against people's.

FOLDER holds captions.jsonl, a JSON object a line with "image" (a path inside FOLDER), "captions" and perhaps
"captions_zh", and the pictures. Which split a picture is in follows from "split" and from its name, as in training.

CIDEr, BLEU-1 to -4, ROUGE-L and METEOR are pycocoevalcap's, in percent. English is parted into words by the Penn
Treebank tokenizer where java is on the path; without it in a simple way, and METEOR is left out: the words are named
in the result, since numbers made with different ones cannot be compared. Chinese is scored by characters.

--sheet draws the 7 best, 6 median and 7 worst captions by CIDEr.
"""

import argparse
import json
from dataclasses import dataclass

from rich.table import Table

from mplug.errors import MplugError
from mplug.evaluation import captions
from mplug.evaluation.examples import choose_examples
from mplug.evaluation.noise import changed_share
from mplug_services.cli.common import EXIT_OK, CliError, UsageError, results
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

TASK = "image-captioning"
_NAMES = {
    "cider": "CIDEr",
    **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
}


@dataclass(frozen=True, slots=True, eq=False)
class CaptionReport:
    """What was measured."""

    model: str
    split: str
    language: str
    scores: captions.CaptionScores
    changed: float | None
    """Share of captions, in percent, that noise for pictures changes; None: not asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation's arguments."""
    add_data_arguments(parser)
    parser.add_argument(
        "--language", choices=["en", "zh"], default="en", help="of the captions (default: %(default)s)"
    )
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what every caption begins with")
    add_text_arguments(parser)
    add_generation_arguments(parser)
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation."""
    check_arguments(options)
    items, references = _read(options)
    runner = open_runner(TASK, options)
    try:
        texts = generate_texts(runner, items, options)
        blind = generate_texts(runner, items, options, noise=True) if options.noise else None
    finally:
        runner.close()
    found = {item.id: text for item, text in zip(items, texts, strict=True)}
    report = CaptionReport(
        model=runner.model_name,
        split=options.split,
        language=options.language,
        scores=_score(found, references, options.language),
        changed=changed_share(texts, blind) if blind is not None else None,
    )
    if options.sheet is not None:
        _write_sheet(report, found, references, options)
    _print(report, as_json=options.json)
    return EXIT_OK


def _read(options: argparse.Namespace) -> tuple[list[Item], dict[str, tuple[str, ...]]]:
    from mplug.train.config import DataConfig
    from mplug.train.data import read_captions

    try:
        rows = read_captions(options.data, DataConfig())
    except MplugError as error:
        raise UsageError(f"--data {options.data}: {error}") from error
    chinese = options.language == "zh"
    captioned = [row for row in rows if (row.captions_zh if chinese else row.captions)]
    kept = chosen(captioned, options)
    items = [Item(row.path, options.data / row.path, options.prompt) for row in kept]
    return items, {row.path: row.captions_zh if chinese else row.captions for row in kept}


def _score(
    found: dict[str, str], references: dict[str, tuple[str, ...]], language: str
) -> captions.CaptionScores:
    try:
        return captions.score(found, references, language)
    except MplugError as error:
        raise CliError(str(error)) from error


def _write_sheet(
    report: CaptionReport,
    found: dict[str, str],
    references: dict[str, tuple[str, ...]],
    options: argparse.Namespace,
) -> None:
    shown = [
        Shown(each, options.data / each.id, "", found[each.id], references[each.id])
        for each in choose_examples(report.scores.cider_of)
    ]
    title = (
        f"{report.model}: captions of {options.split} by CIDEr, {report.scores.cider:.1f} over {len(found)}"
    )
    write_examples(options.sheet, title, shown)


def _print(report: CaptionReport, *, as_json: bool) -> None:
    metrics = report.scores.metrics()
    facts = {
        "model": report.model,
        "split": report.split,
        "language": report.language,
        "pictures": len(report.scores.cider_of),
        "words": str(report.scores.tokenization),
        **metrics,
        "changed_by_noise": report.changed,
    }
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    title = f"{facts['pictures']} captions of {report.split}, {report.language}, by {report.model}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column(f"% ({report.scores.tokenization} words)", justify="right", no_wrap=True)
    for name, value in metrics.items():
        table.add_row(_NAMES[name], f"{value:.1f}")
    if report.changed is not None:
        table.add_row("changed by noise", f"{report.changed:.1f}")
    results().print(table)
