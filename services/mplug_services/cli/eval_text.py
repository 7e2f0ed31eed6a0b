"""Measure what a model writes from texts, or a server's: how near it is to people's, and its form.

FILE holds rows as `mplug train finetune-text` reads them: "source" (or "text") and "target"; a row of a text alone is
for perplexity only. What the rows are says --kind:

texts: a source is given as it is; ROUGE, BLEU and accuracy (the very same text) against the targets, in percent.
couplets: a source is a first line; second lines of the same length that are not the first one again.
poems: a source is a tune's name; poems whose lines are as long as the tune has them. --known FILE holds poems of each
tune, of the same kind of rows: a tune's forms are its commonest and those of a tenth of its poems; tunes of fewer than
five known poems do not count. How many lines are copied from there is told, too.

Perplexity of the targets is measured where the model is on this machine.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mplug import prompts
from mplug.errors import MplugError
from mplug.evaluation import forms, text_scores
from mplug_services.cli.common import EXIT_OK, CliError, UsageError, messages, progress_bar, results
from mplug_services.cli.generation import add_generation_arguments, add_place_arguments, wire_options
from mplug_services.cli.texts import MODELS, Writes, open_writer

if TYPE_CHECKING:
    from mplug.train.text.rows import TextRow

KINDS = ("texts", "couplets", "poems")


@dataclass(frozen=True, slots=True)
class Judged:
    """One row with what was written of it."""

    source: str
    target: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation's arguments."""
    parser.add_argument("--data", required=True, metavar="FILE", help="the rows, see above")
    parser.add_argument("--kind", choices=KINDS, default="texts", help="default: %(default)s")
    parser.add_argument("--known", metavar="FILE", help="poems of the tunes, as of --data")
    parser.add_argument(
        "--metre", type=int, metavar="N", help="tell how many texts, and lines, have N characters a line"
    )
    parser.add_argument(
        "--language", choices=["zh", "en"], default="zh", help="of the targets (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only N rows, evenly spaced")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="texts at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write what was written there, JSON lines"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_generation_arguments(parser)
    add_place_arguments(parser, MODELS.format("GPT-3, PALM or PLUG"), example="FOLDER")


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation."""
    _check(options)
    rows = _read(options.data, options.limit)
    known = _read(options.known) if options.known else []
    writer = open_writer(options)
    try:
        judged = list(_write(writer, [row for row in rows if row.source], options))
        perplexity = _perplexity(writer, rows, options)
    finally:
        writer.close()
    try:
        metrics = _metrics(judged, known, options)
    except MplugError as error:
        raise CliError(str(error)) from error
    if options.output is not None:
        _save(options.output, judged)
    facts = {"rows": len(rows), "written": len(judged), **metrics, "perplexity": perplexity}
    _print(facts, as_json=options.json)
    return EXIT_OK


def _check(options: argparse.Namespace) -> None:
    for name in ("limit", "batch_size", "metre"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} takes a number from 1 on, not {value}")
    if (options.kind == "poems") != (options.known is not None):
        raise UsageError("--kind poems and --known FILE go together")
    wire_options(options)  # before the model is loaded


def _read(file: str, limit: int | None = None) -> "list[TextRow]":
    from mplug.train.text.rows import read_all

    try:
        rows = read_all(file)
    except MplugError as error:
        raise UsageError(str(error)) from error
    count = min(limit or len(rows), len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def _prompt(source: str, kind: str) -> str:
    """What a model is given for a row."""
    match kind:
        case "couplets":
            return prompts.couplet(source)
        case "poems":
            return prompts.poem(tune=source)
        case _:
            return source


def _write(writer: Writes, rows: "Sequence[TextRow]", options: argparse.Namespace) -> Iterator[Judged]:
    with progress_bar(messages()) as progress:
        bar = progress.add_task("texts", total=len(rows))
        for start in range(0, len(rows), options.batch_size):
            some = rows[start : start + options.batch_size]
            outcomes = writer.generate(
                [_prompt(row.source, options.kind) for row in some],
                options=wire_options(options),
                model=options.served_model,
            )
            for row, outcome in zip(some, outcomes, strict=True):
                if outcome.error is not None:
                    raise CliError(f"{row.origin}: {outcome.error}")
                yield Judged(row.source, row.target, outcome.texts[0].text)
            progress.advance(bar, len(some))


def _perplexity(writer: Writes, rows: "Sequence[TextRow]", options: argparse.Namespace) -> float | None:
    if options.model is None:
        return None
    from dataclasses import replace

    from mplug.train.text.families import family_of
    from mplug.train.text.measuring import log_probabilities
    from mplug_services.cli.local_texts import LocalWriter

    assert isinstance(writer, LocalWriter), "what is on this machine"
    given = [replace(row, source=_prompt(row.source, options.kind) if row.source else "") for row in rows]
    try:
        family = family_of(writer.generator, writer.generator.decoder.max_positions)
        return text_scores.perplexity(log_probabilities(family, given, options.batch_size))
    except MplugError as error:
        raise CliError(str(error)) from error


def _metrics(
    judged: Sequence[Judged], known: "Sequence[TextRow]", options: argparse.Namespace
) -> Mapping[str, float]:
    if not judged:
        return {}
    texts = [each.text for each in judged]
    found = dict(_of_kind(judged, known, options))
    if options.metre is not None:
        found["metre"] = forms.metre_rate(texts, options.metre)
        found["metre_lines"] = forms.metre_line_rate(texts, options.metre)
    return {**found, "distinct_1": forms.distinct_rate(texts, 1), "distinct_2": forms.distinct_rate(texts, 2)}


def _of_kind(
    judged: Sequence[Judged], known: "Sequence[TextRow]", options: argparse.Namespace
) -> Mapping[str, float]:
    texts = [each.text for each in judged]
    match options.kind:
        case "couplets":
            return forms.score_couplets([each.source for each in judged], texts).metrics()
        case "poems":
            tunes = forms.forms_by_tune((row.source, row.target) for row in known)
            lines = {line for row in known for line in forms.lines_of(row.target)}
            return {
                "form": forms.form_rate([(each.source, each.text) for each in judged], tunes),
                "form_of_people": forms.form_rate([(each.source, each.target) for each in judged], tunes),
                "copied_lines": forms.copied_line_rate(texts, lines),
            }
        case _:
            scores = text_scores.score_texts(texts, [[each.target] for each in judged], options.language)
            same = sum(each.text.strip() == each.target.strip() for each in judged)
            return {**scores.metrics(), "accuracy": 100 * same / len(judged)}


def _save(file: Path, judged: Sequence[Judged]) -> None:
    lines = [
        json.dumps({"source": each.source, "target": each.target, "text": each.text}, ensure_ascii=False)
        for each in judged
    ]
    try:
        file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {file} cannot be written: {error}") from error


# Any: JSON.
def _print(facts: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    title = f"{facts['written']} texts of {facts['rows']} rows"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for name, value in facts.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.1f}")
    results().print(table)
