"""Measure a classifier on a task of CLUE, from the benchmark's own files.

FILE is one of the task's, such as dev.json: JSON lines. Accuracy is of the lines that have a label. A model whose
labels are called otherwise is told by --name OWN=CLUES, once for each label. With --submission FILE what CLUE's board
takes is written there, of lines without a label, too; a file without any label gives no accuracy.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mplug.errors import MplugError
from mplug_services.cli.common import EXIT_OK, CliError, UsageError, results

if TYPE_CHECKING:
    from mplug.text_classifier import TextClassifier

TASKS = ("tnews", "iflytek", "afqmc", "ocnli", "cmnli", "csl", "wsc")
"""Keys of `mplug.evaluation.clue.CLUE_TASKS`, which a parser that is only built need not import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation's arguments."""
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="a file of the task")
    parser.add_argument(
        "--model",
        required=True,
        metavar="FOLDER",
        help="a classifier: StructBERT, plug_mental or PLUG's encoder",
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="OWN=CLUES",
        help="what CLUE calls a label of the model's",
    )
    parser.add_argument("--submission", type=Path, metavar="FILE", help="write the predictions there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation."""
    names = _names(options.name)
    try:
        facts = _measure(options, _load(options), names)
    except MplugError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise UsageError(f"--submission {options.submission} cannot be written: {error}") from error
    if options.json:
        print(json.dumps(facts))
    else:
        results().print(", ".join(f"{name} {value:.4g}" for name, value in facts.items()))
    return EXIT_OK


def _names(pairs: list[str]) -> Mapping[str, str] | None:
    for pair in pairs:
        if not all(pair.partition("=")):
            raise UsageError(f"--name takes OWN=CLUES, not {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs) or None


def _load(options: argparse.Namespace) -> "TextClassifier":
    from mplug.freezing import freeze
    from mplug.loading import load
    from mplug.text_loading import module_of

    classifier = load(options.model, task="text-classification", device=options.device, dtype=options.dtype)
    freeze(module_of(classifier))
    return classifier


def _measure(
    options: argparse.Namespace, classifier: "TextClassifier", names: Mapping[str, str] | None
) -> dict[str, float]:
    from mplug.evaluation.clue import evaluate_clue, read_clue, write_submission

    facts: dict[str, float] = {}
    if options.submission is not None:
        facts["written"] = write_submission(
            options.task, options.data, classifier, options.submission, names=names
        )
    labelled = any(each.label is not None for each in read_clue(options.task, options.data))
    if labelled or options.submission is None:
        score = evaluate_clue(options.task, options.data, classifier, names=names)
        facts |= {"accuracy": score.accuracy, "total": score.total, "left_out": score.left_out}
    return facts
