"""Write captions for pictures.

A source is a folder (searched through), a pattern, a picture, or a .jsonl file of objects with a field
"image" (a path relative to the .jsonl file) and perhaps an "id". The result is one JSON object a line:
{"id", "caption", "score", "token_ids"}, with "captions" where several were asked for, or {"id", "error"}.

With --explain FOLDER, a sheet for each picture shows which parts of it speak for each word of the best caption;
the line names it ("explanation").

With --output FILE, the results go to FILE, and FILE.ledger keeps account: the same command given again
after it was killed finishes what is missing, and every picture has one line in the end. A picture that is
refused is done; one that failed for a reason that may pass (a server too busy) is tried again then.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from mplug.errors import MplugError
from mplug.pipelines import Input, Outcome, Runner, image_bytes
from mplug_services.cli.common import (
    EXIT_FAILURE,
    EXIT_OK,
    EXIT_REFUSED,
    CliError,
    Refusal,
    UsageError,
    messages,
    progress_bar,
    report_refusals,
)
from mplug_services.cli.explanations import (
    add_explain_arguments,
    explain_settings,
    file_name,
    write_sheet,
)
from mplug_services.cli.generation import (
    add_generation_arguments,
    add_model_arguments,
    generation_settings,
    open_runner,
)
from mplug_services.cli.ledger import ResultFile
from mplug_services.cli.sources import Found, find_items
from mplug_services.client import ClientError, IngestItem, InvalidRequestError

TASK = "image-captioning"
# Failures of one item that say nothing of the item.
_PASSING = ("CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder, pattern, picture or .jsonl file"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help=".jsonl (default: JSON lines here)")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what every caption begins with")
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures at a time (default: %(default)s)"
    )
    add_explain_arguments(parser, "FOLDER", "write a sheet of heat maps for each picture")
    add_generation_arguments(parser)
    add_model_arguments(parser)


@dataclass(frozen=True, slots=True)
class Captioned:
    """What became of one picture."""

    outcome: Outcome
    sheet: Path | None = None
    """Of its heat maps, where they were asked for."""


@dataclass(slots=True)
class Summary:
    """What became of the pictures."""

    captioned: int = 0
    present: int = 0
    refused: list[Refusal] = field(default_factory=list)
    failed: list[Refusal] = field(default_factory=list)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    if options.batch_size < 1:
        raise UsageError(f"--batch-size takes a number of pictures from 1 on, not {options.batch_size}")
    if options.output is not None and options.output.suffix != ".jsonl":
        raise UsageError(f"--output takes a .jsonl file, not {options.output}")
    explain_settings(options)  # before the model is loaded
    items = find_items(options.sources)
    runner = open_runner(TASK, options)
    try:
        with _results(runner, options) as results:
            summary = caption_items(runner, items, results, options)
    finally:
        runner.close()
    return _close(summary, messages())


def caption_items(
    runner: Runner, items: Sequence[Found], results: ResultFile | None, options: argparse.Namespace
) -> Summary:
    """Captions what has no line yet, batch by batch, with a progress bar."""
    done = results.done if results is not None else set()
    summary = Summary(refused=[item for item in items if isinstance(item, Refusal)])
    missing = [item for item in items if isinstance(item, IngestItem) and item.id not in done]
    summary.present = len(items) - len(summary.refused) - len(missing)
    with progress_bar(messages()) as progress:
        bar = progress.add_task("captions", total=len(items) - len(summary.refused))
        progress.advance(bar, summary.present)
        for start in range(0, len(missing), options.batch_size):
            batch = missing[start : start + options.batch_size]
            captioned = caption_batch(runner, batch, options)
            lines = list(_lines(zip(batch, captioned, strict=True), summary))
            if results is not None:
                results.add(lines)
            else:
                print(
                    "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), end="", flush=True
                )
            progress.advance(bar, len(batch))
    return summary


def caption_batch(
    runner: Runner, batch: Sequence[IngestItem], options: argparse.Namespace
) -> list[Captioned]:
    """An outcome for each, with its sheet where one was asked for; a file that cannot be read has an error as its own.

    Raises:
        CliError: A sheet cannot be written, or the model cannot be explained so.
    """
    inputs: dict[int, Input] = {}
    captioned: dict[int, Captioned] = {}
    for place, item in enumerate(batch):
        try:
            inputs[place] = Input(image_bytes(item.image), options.prompt)
        except OSError as error:
            refused = InvalidRequestError(f"{item.id}: the file cannot be read: {error.strerror}")
            captioned[place] = Captioned(Outcome(error=refused))
    for place, outcome in zip(inputs, _run(runner, list(inputs.values()), options), strict=True):
        sheet = None
        if options.explain is not None and outcome.error is None:
            # On the disk before the ledger says that the picture is done.
            sheet = options.explain / file_name(batch[place].id, ".png")
            write_sheet(sheet, inputs[place].image, outcome, outcome.texts[0].text)
        captioned[place] = Captioned(outcome, sheet)
    return [captioned[place] for place in range(len(batch))]


def _run(runner: Runner, inputs: list[Input], options: argparse.Namespace) -> list[Outcome]:
    try:
        return runner.run(inputs, explain=explain_settings(options)) if inputs else []
    except MplugError as error:
        raise CliError(str(error)) from error


def _results(runner: Runner, options: argparse.Namespace) -> AbstractContextManager[ResultFile | None]:
    if options.output is None:
        return nullcontext()
    settings = {"model": runner.model_name, "prompt": options.prompt, **generation_settings(options)}
    if options.image_size is not None:
        settings["image_size"] = options.image_size
    if options.explain is not None:
        settings |= {"explain": str(options.explain), "explain_layer": options.explain_layer}
    return ResultFile(options.output, settings)


def _lines(pairs: Iterable[tuple[IngestItem, Captioned]], summary: Summary) -> Iterator[dict[str, Any]]:
    """The lines of a batch. Any: JSON."""
    for item, captioned in pairs:
        outcome = captioned.outcome
        if outcome.error is None:
            summary.captioned += 1
            yield _line(item.id, captioned)
        elif isinstance(outcome.error, ClientError) and outcome.error.code in _PASSING:
            summary.failed.append(Refusal(item.id, str(outcome.error)))
        else:
            summary.refused.append(Refusal(item.id, str(outcome.error)))
            yield {"id": item.id, "error": str(outcome.error)}


def _line(id: str, captioned: Captioned) -> dict[str, Any]:
    texts = [
        {"caption": each.text, "score": round(each.score, 6), "token_ids": list(each.token_ids)}
        for each in captioned.outcome.texts
    ]
    line = {"id": id, **texts[0], **({"captions": texts} if len(texts) > 1 else {})}
    return line if captioned.sheet is None else {**line, "explanation": str(captioned.sheet)}


def _close(summary: Summary, console: Console) -> int:
    report_refusals(console, summary.refused, "refused")
    report_refusals(console, summary.failed, "failed")
    console.print(
        f"{summary.captioned} captioned, {summary.present} were done already, {len(summary.refused)} refused"
        + (f", {len(summary.failed)} failed: give the command again" if summary.failed else "")
    )
    if summary.failed:
        return EXIT_FAILURE
    return EXIT_REFUSED if summary.refused else EXIT_OK
