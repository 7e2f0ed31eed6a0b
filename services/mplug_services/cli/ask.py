"""Ask a question about a picture.

The answer is in the model's own words, or, with --answers, the likeliest of those given.
"""

import argparse
import json
import sys
from typing import Any

from rich.table import Table

from mplug.errors import MplugError
from mplug.pipelines import Input, Outcome, Runner, image_bytes
from mplug_services.cli.common import EXIT_OK, CliError, UsageError, results
from mplug_services.cli.explanations import add_explain_arguments, explain_settings, write_sheet
from mplug_services.cli.generation import add_generation_arguments, add_model_arguments, open_runner

TASK = "visual-question-answering"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("image", metavar="IMAGE", help="a picture; - is standard input")
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("--answers", nargs="+", metavar="ANSWER", help="answers to choose from")
    parser.add_argument(
        "--rank-k",
        type=int,
        default=128,
        metavar="K",
        help="with --answers: how many, by their first token, are scored in full (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_explain_arguments(parser, "OUT.png", "write a sheet of what the best answer's words looked at")
    add_generation_arguments(parser)
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    item = Input(_read(options.image), options.question)
    if options.rank_k < 1:
        raise UsageError(f"--rank-k takes a number of answers from 1 on, not {options.rank_k}")
    if options.explain is not None and options.explain.suffix.lower() != ".png":
        raise UsageError(f"--explain takes a .png file, not {options.explain}")
    explain_settings(options)  # before the model is loaded
    runner = open_runner(TASK, options)
    try:
        outcome = _ask(runner, item, options)
    finally:
        runner.close()
    if options.explain is not None:
        write_sheet(options.explain, item.image, outcome, f"{item.text} – {_best(outcome)}")
    if options.json:
        print(json.dumps(_facts(outcome), ensure_ascii=False))
    elif options.answers:
        results().print(_ranking(outcome))
    else:
        print("\n".join(each.text for each in outcome.texts))
    return EXIT_OK


def _read(image: str) -> bytes:
    if image == "-":
        return sys.stdin.buffer.read()
    try:
        return image_bytes(image)
    except OSError as error:
        raise UsageError(f"{image} cannot be read: {error.strerror}") from error
    except MplugError as error:
        raise UsageError(str(error)) from error


def _ask(runner: Runner, item: Input, options: argparse.Namespace) -> Outcome:
    explain = explain_settings(options)
    try:
        if options.answers:
            (outcome,) = runner.rank([item], options.answers, options.rank_k, explain=explain)
        else:
            (outcome,) = runner.run([item], explain=explain)
        if outcome.error is not None:
            raise outcome.error
    except MplugError as error:
        raise CliError(str(error)) from error
    return outcome


def _best(outcome: Outcome) -> str:
    return outcome.ranked[0].text if outcome.ranked else outcome.texts[0].text


def _facts(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON."""
    if outcome.ranked:
        ranked = [{"index": e.index, "text": e.text, "probability": e.probability} for e in outcome.ranked]
        return {"answer": _best(outcome), "ranked": ranked}
    texts = [{"text": e.text, "score": e.score, "token_ids": list(e.token_ids)} for e in outcome.texts]
    return {"answer": _best(outcome), "answers": texts}


def _ranking(outcome: Outcome) -> Table:
    table = Table("answer", "probability", header_style="bold")
    for each in outcome.ranked:
        table.add_row(each.text, f"{each.probability:.3f}")
    return table
