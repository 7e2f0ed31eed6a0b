"""Measure what a model writes from texts, or a server's: how near it is to people's, and its form.

FILE holds rows as `mplug train finetune-text` reads them: "source" (or "text") and "target"; a row of a text alone is
for perplexity only. What the rows are says --kind:

texts: a source is given as it is; ROUGE, BLEU and accuracy (the very same text) against the targets, in percent.
couplets: a source is a first line; second lines of the same length that are not the first one again. They are written
as long as the first ones, unless --min-length or --max-length is given.
poems: a source is a tune's name; poems whose lines are as long as the tune has them. --known FILE holds poems of each
tune, of the same kind of rows: a tune's forms are its commonest and those of a tenth of its poems; tunes of fewer than
five known poems do not count. How many lines are copied from there is told, too. With --openings a poem's own first
line is given as well.
fives: as texts, and how many texts, and lines, have five characters a line.
titles: as texts; a source is an abstract.

FOLDER is the data of the small models (text_poem.jsonl, text_couplet.jsonl, text_summ_zh.jsonl): the rows that their
training held out are measured, of several kinds where --kind is given several times, and the rows that it learnt are
the known ones.

A prompt that several rows have is written from with seeds that follow one another. Perplexity of the targets is
measured where the model is on this machine. With --json each kind is an object a line.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mplug.errors import MplugError
from mplug.evaluation import forms, text_scores
from mplug_services.cli.common import EXIT_OK, CliError, UsageError, messages, progress_bar, results
from mplug_services.cli.eval_text_rows import KINDS, Asked, Measured, in_turns, read_measured
from mplug_services.cli.generation import (
    add_generation_arguments,
    add_place_arguments,
    of_length,
    wire_options,
)
from mplug_services.cli.texts import MODELS, Writes, open_writer
from mplug_services.client import GenerationOptions

if TYPE_CHECKING:
    from mplug.train.text.rows import TextRow


@dataclass(frozen=True, slots=True)
class Judged:
    """One row with what was written of it."""

    source: str
    target: str
    text: str
    given: str = ""
    """How the text begins, which was no work of the model."""

    @property
    def whole(self) -> str:
        """The text with what it begins with."""
        return self.given + self.text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation's arguments."""
    parser.add_argument("--data", required=True, metavar="FILE|FOLDER", help="the rows, see above")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        action="append",
        help="of a folder, may be given several times (default: texts)",
    )
    parser.add_argument("--known", metavar="FILE", help="poems of the tunes, as of --data")
    parser.add_argument(
        "--openings",
        action="store_true",
        help="of poems: give the first line, too, so that no prompt was learnt",
    )
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
    measured = read_measured(options)
    writer = open_writer(options)
    try:
        everything = [each for rows in measured for each in _measure(writer, rows, options)]
    finally:
        writer.close()
    if options.output is not None:
        _save(options.output, everything)
    return EXIT_OK


def _check(options: argparse.Namespace) -> None:
    for name in ("limit", "batch_size", "metre"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} takes a number from 1 on, not {value}")
    wire_options(options)  # before the model is loaded


def _measure(writer: Writes, measured: Measured, options: argparse.Namespace) -> list[Judged]:
    """Has a kind's rows written, and prints what they are worth."""
    judged = list(_write(writer, measured.rows, options))
    perplexity = _perplexity(writer, measured.rows, options)
    try:
        metrics = _metrics(judged, measured, options.language)
    except MplugError as error:
        raise CliError(str(error)) from error
    facts = {"kind": measured.kind, "rows": len(measured.rows), "written": len(judged)}
    _print({**facts, **metrics, "perplexity": perplexity}, as_json=options.json)
    return judged


def _write(writer: Writes, rows: Sequence[Asked], options: argparse.Namespace) -> Iterator[Judged]:
    with progress_bar(messages()) as progress:
        bar = progress.add_task("texts", total=sum(bool(row.prompt) for row in rows))
        for turn, some in in_turns(rows, options.batch_size):
            outcomes = writer.generate(
                [each.prompt for each in some],
                options=of_length(_of_turn(wire_options(options), turn), some[0].length),
                model=options.served_model,
            )
            for each, outcome in zip(some, outcomes, strict=True):
                if outcome.error is not None:
                    raise CliError(f"{each.row.origin or each.row.source[:40]}: {outcome.error}")
                yield Judged(each.row.source, each.row.target, outcome.texts[0].text, each.given)
            progress.advance(bar, len(some))


def _of_turn(options: GenerationOptions | None, turn: int) -> GenerationOptions | None:
    if options is None or options.seed is None:
        return options
    return replace(options, seed=options.seed + turn)


def _perplexity(writer: Writes, rows: Sequence[Asked], options: argparse.Namespace) -> float | None:
    if options.model is None:
        return None
    from mplug.train.text.families import family_of
    from mplug.train.text.measuring import log_probabilities
    from mplug_services.cli.local_texts import LocalWriter

    assert isinstance(writer, LocalWriter), "what is on this machine"
    learnt = [row.learnt for row in rows]
    try:
        family = family_of(writer.generator, writer.generator.decoder.max_positions)
        return text_scores.perplexity(log_probabilities(family, learnt, options.batch_size))
    except MplugError as error:
        raise CliError(str(error)) from error


def _metrics(judged: Sequence[Judged], measured: Measured, language: str) -> Mapping[str, float]:
    if not judged:
        return {}
    texts = [each.text for each in judged]
    found = dict(_of_kind(judged, measured, language))
    if measured.metre is not None:
        found["metre"] = forms.metre_rate(texts, measured.metre)
        found["metre_lines"] = forms.metre_line_rate(texts, measured.metre)
    return {**found, "distinct_1": forms.distinct_rate(texts, 1), "distinct_2": forms.distinct_rate(texts, 2)}


def _of_kind(judged: Sequence[Judged], measured: Measured, language: str) -> Mapping[str, float]:
    texts = [each.text for each in judged]
    match measured.kind:
        case "couplets":
            return forms.score_couplets([each.source for each in judged], texts).metrics()
        case "poems":
            return _of_poems(judged, measured.known)
        case _:
            scores = text_scores.score_texts(texts, [[each.target] for each in judged], language)
            same = sum(each.text.strip() == each.target.strip() for each in judged)
            return {**scores.metrics(), "accuracy": 100 * same / len(judged)}


def _of_poems(judged: Sequence[Judged], known: "Sequence[TextRow]") -> Mapping[str, float]:
    tunes = forms.forms_by_tune((row.source, row.target) for row in known)
    lines = {line for row in known for line in forms.lines_of(row.target)}
    return {
        "form": forms.form_rate([(each.source, each.whole) for each in judged], tunes),
        "form_of_people": forms.form_rate([(each.source, each.target) for each in judged], tunes),
        "copied_lines": forms.copied_line_rate([each.text for each in judged], lines),
    }


def _save(file: Path, judged: Sequence[Judged]) -> None:
    lines = [
        json.dumps({"source": each.source, "target": each.target, "text": each.whole}, ensure_ascii=False)
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
    title = f"{facts['kind']}: {facts['written']} written of {facts['rows']} rows"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for name, value in facts.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.1f}")
    results().print(table)
