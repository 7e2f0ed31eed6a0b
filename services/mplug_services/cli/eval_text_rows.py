"""The rows that `mplug eval text` measures on: those of a file, or the held-out ones of the small models' data."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mplug import prompts
from mplug.errors import MplugError
from mplug.evaluation.forms import lines_of
from mplug_services.cli.common import UsageError

if TYPE_CHECKING:
    from mplug.train.text.rows import TextRow

KINDS = ("texts", "couplets", "poems", "fives", "titles")
METRES = {"fives": 5}
"""Characters of each line, where a kind says so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A row, and what a model is given for it."""

    row: "TextRow"
    prompt: str
    """Empty: nothing is written, the row is for perplexity only."""
    given: str = ""
    """How the target begins, where the prompt ends with that."""
    length: int | None = None
    """Tokens that what is written should have."""

    @property
    def learnt(self) -> "TextRow":
        """The row as a model would be trained on it."""
        return replace(self.row, source=self.prompt, target=self.row.target[len(self.given) :])


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of one kind."""

    kind: str
    rows: Sequence[Asked]
    known: "Sequence[TextRow]" = ()
    """Poems of the tunes."""
    metre: int | None = None
    """Characters that each line should have."""


def read_measured(options: argparse.Namespace) -> list[Measured]:
    """What the options name, kind by kind.

    Raises:
        UsageError: Options that cannot be, or a file that cannot be read or holds other rows.
    """
    kinds: list[str] = options.kind or ["texts"]
    try:
        if Path(options.data).is_dir():
            return [_of_folder(kind, options) for kind in kinds]
        return [_of_file(kind, options) for kind in _single(kinds)]
    except MplugError as error:
        raise UsageError(str(error)) from error


def in_turns(rows: Sequence[Asked], size: int) -> Iterator[tuple[int, list[Asked]]]:
    """Batches in which no prompt comes twice, since one seed would draw one text of both, and all are to be as long.

    Args:
        rows: those without a prompt are left out.
        size: most rows of a batch.

    Yields:
        How often the batch's prompts came before, and its rows.
    """
    seen: dict[str, int] = {}
    turns: list[tuple[tuple[int, int], Asked]] = []
    for row in rows:
        if row.prompt:
            turn = seen[row.prompt] = seen.get(row.prompt, -1) + 1
            turns.append(((turn, row.length or 0), row))
    turns.sort(key=lambda each: each[0])
    for (turn, _), group in groupby(turns, lambda each: each[0]):
        some = [row for _, row in group]
        yield from ((turn, some[start : start + size]) for start in range(0, len(some), size))


def _single(kinds: Sequence[str]) -> Sequence[str]:
    if len(kinds) > 1:
        raise UsageError("a file holds rows of one --kind; several are for a folder of data")
    return kinds


def _of_file(kind: str, options: argparse.Namespace) -> Measured:
    from mplug.train.text.rows import read_all

    if (kind == "poems") != (options.known is not None):
        raise UsageError("--kind poems and --known FILE go together")
    known = read_all(options.known) if options.known else []
    return _measured(kind, read_all(options.data), known, options)


def _of_folder(kind: str, options: argparse.Namespace) -> Measured:
    from mplug.train.splits import Split
    from mplug.train.text.export_rows import rows_by_file
    from mplug.train.text.rows import TextRow

    if kind == "texts" or options.known is not None:
        raise UsageError(
            f"{options.data} is a folder, whose rows are known: name them with --kind "
            f"{' | '.join(KINDS[1:])}, and leave out --known"
        )
    held_out, known = (
        [TextRow(source, target) for source, target in rows_by_file(Path(options.data), split)[kind]]
        for split in (Split.HELD_OUT, Split.TRAIN)
    )
    return _measured(kind, held_out, known if kind == "poems" else [], options)


def _measured(
    kind: str, rows: "Sequence[TextRow]", known: "Sequence[TextRow]", options: argparse.Namespace
) -> Measured:
    if options.openings and kind != "poems":
        raise UsageError(f"--openings is for --kind poems, not for {kind}")
    metre = options.metre if options.metre is not None else METRES.get(kind)
    some = [
        _asked(row, kind, openings=options.openings) for row in rows if not options.openings or _goes_on(row)
    ]
    if not some:
        raise UsageError(f"{options.data} holds no {kind} to measure on")
    return Measured(kind, _spaced(some, options.limit), known, metre)


def _goes_on(row: "TextRow") -> bool:
    return len(lines_of(row.target)) > 1


def _asked(row: "TextRow", kind: str, *, openings: bool) -> Asked:
    from mplug.train.text.poems import opening

    if not row.source:
        return Asked(row, "")
    if kind == "poems":
        given = opening(row.target) if openings else ""
        return Asked(row, prompts.poem(given, tune=row.source), given)
    if kind == "couplets":
        return Asked(
            row,
            prompts.couplet(row.source),
            length=prompts.written_length("couplet", first=row.source),
        )
    return Asked(row, row.source)


def _spaced(rows: Sequence[Asked], limit: int | None) -> list[Asked]:
    count = min(limit or len(rows), len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]
