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
from mplug.train.splits import Split
from mplug.train.text.poems import Couplet, Poem, json_rows, longer, neighbours
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
    """What people ask for."""
    return [
        *(TextRow(prompts.summary(abstract.text), abstract.title) for abstract in abstracts),
        *(TextRow(prompts.couplet(couplet.first), couplet.second) for couplet in couplets),
    ]


def answering_rows(
    abstracts: Sequence[Abstract], couplets: Sequence[Couplet], poems: Sequence[Poem]
) -> list[TextRow]:
    """The second stage's: what people ask for, and further lines that answer each other."""
    return [*title_rows(abstracts, couplets), *_answers(_pairs_to_learn(couplets, poems))]


def copying_rows(
    abstracts: Sequence[Abstract], couplets: Sequence[Couplet], poems: Sequence[Poem]
) -> list[TextRow]:
    """The first stage's: half of what an epoch shows is a line or clause to be said again.

    With less of that a small model answers in the general tone of its sources, and never learns to look at them.
    """
    pairs = _pairs_to_learn(couplets, poems)
    lines = [couplet.first for couplet in couplets] + [first for first, _ in pairs]
    clauses = [clause for abstract in abstracts for clause in _clauses(abstract.text)]
    return [
        *title_rows(abstracts, couplets),
        *(TextRow(BACKWARDS.format(couplet.second), couplet.first, weight=0.5) for couplet in couplets),
        *(row for abstract in abstracts for row in _clause_rows(abstract)),
        *_answers(pairs),
        *(TextRow(SAY_AGAIN + line, line, weight=0.5) for line in lines),
        *(TextRow(SAY_AGAIN + clause, clause, weight=0.5) for clause in clauses),
    ]


def _pairs_to_learn(couplets: Sequence[Couplet], poems: Sequence[Poem]) -> list[tuple[str, str]]:
    """Lines beside the couplets themselves: of poems, and longer ones made of both."""
    sides = [*neighbours(poems)]
    return [*sides, *longer([*sides, *((couplet.first, couplet.second) for couplet in couplets)])]


def _answers(pairs: Sequence[tuple[str, str]]) -> Iterator[TextRow]:
    return (TextRow(prompts.couplet(first), second, weight=0.5) for first, second in pairs)


def _clauses(text: str) -> list[str]:
    return [clause for clause in map(str.strip, _CLAUSES.split(text)) if 6 <= len(clause) <= 36]


def _clause_rows(abstract: Abstract) -> Iterator[TextRow]:
    """Clauses that say most of different parts of an abstract."""
    chance = random.Random(abstract.text)
    clauses = _clauses(abstract.text)
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
