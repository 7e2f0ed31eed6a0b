"""Rows for palm-mini: abstracts with their titles, couplets, and what the first stage learns to copy with.

A source is what `mplug.prompts` gives: an abstract as it is, or a couplet's first line. The first stage's tasks are
made of the same training texts: find the clause of an abstract that says most of it, answer lines of poems that stand
side by side and are equally long, say a line again.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mplug import prompts
from mplug.evaluation.forms import lines_of
from mplug.train.splits import Split
from mplug.train.text.poems import Couplet, Poem, json_rows
from mplug.train.text.rows import TextRow, held_out

ABSTRACTS_FILE = "text_summ_zh.jsonl"

BACKWARDS = "下联：{}\n上联："
"""Of the first stage alone: the couplet the other way round."""
SAY_AGAIN = "重复："
CLAUSE = "要点："
_CLAUSES = re.compile(r"[,，。.;；:：、]")
_VIEWS = 3
"""Parts of each abstract that a clause is found in."""


@dataclass(frozen=True, slots=True)
class Abstract:
    """An abstract of a scientific paper."""

    text: str
    title: str
    split: Split


def read_abstracts(folder: Path) -> list[Abstract]:
    """The abstracts of a data folder.

    Raises:
        MplugError: no such file, or a row of another kind.
    """
    return [
        Abstract(str(row["text"]), str(row["summary"]), held_out(str(row["text"])))
        for row, _ in json_rows(folder / ABSTRACTS_FILE, "text", "summary")
    ]


def title_rows(abstracts: Sequence[Abstract], couplets: Sequence[Couplet]) -> list[TextRow]:
    """The second stage's."""
    return [
        *(TextRow(prompts.summary(abstract.text), abstract.title) for abstract in abstracts),
        *(TextRow(prompts.couplet(couplet.first), couplet.second) for couplet in couplets),
    ]


def copying_rows(
    abstracts: Sequence[Abstract], couplets: Sequence[Couplet], poems: Sequence[Poem]
) -> list[TextRow]:
    """The first stage's."""
    return [
        *title_rows(abstracts, couplets),
        *(TextRow(BACKWARDS.format(couplet.second), couplet.first) for couplet in couplets),
        *(row for abstract in abstracts for row in _clause_rows(abstract)),
        *(TextRow(prompts.couplet(first), second, weight=0.5) for first, second in _neighbours(poems)),
        *(TextRow(SAY_AGAIN + couplet.first, couplet.first) for couplet in couplets),
    ]


def _neighbours(poems: Sequence[Poem]) -> Iterator[tuple[str, str]]:
    """Lines of equal length that follow each other, of at least five characters."""
    for poem in poems:
        lines = lines_of(poem.text)
        for first, second in zip(lines[::2], lines[1::2], strict=False):
            if len(first) == len(second) >= 5:
                yield first, second


def _clause_rows(abstract: Abstract) -> Iterator[TextRow]:
    """Clauses that say most of different parts of an abstract."""
    chance = random.Random(abstract.text)
    clauses = [clause for clause in _CLAUSES.split(abstract.text) if 6 <= len(clause) <= 36]
    for _ in range(_VIEWS if len(clauses) > 2 else 0):
        count = chance.randint(max(2, len(clauses) // 2), len(clauses))
        kept = [clauses[number] for number in sorted(chance.sample(range(len(clauses)), count))]
        yield TextRow(CLAUSE + "，".join(kept) + "。", max(kept, key=lambda clause: _said(clause, kept)))


def _said(clause: str, clauses: Sequence[str]) -> float:
    """How much of other clauses' pairs of characters a clause has, for its length."""
    pairs = Counter(pair for other in clauses if other != clause for pair in _pairs(other))
    return sum(pairs[pair] for pair in _pairs(clause)) / (len(clause) + 4)


def _pairs(text: str) -> set[str]:
    return {text[at : at + 2] for at in range(len(text) - 1)}
