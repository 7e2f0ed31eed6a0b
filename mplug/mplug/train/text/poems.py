"""Rows for gpt3-poem-mini: ci poems with their tunes, runs of five-character lines, couplets.

What rows begin with is what `mplug.prompts` gives: the name of a tune, then a poem to it; 五言诗 in the place of a
tune, then lines of five characters; the first line of a couplet, then the second. No title: the data has none.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug import prompts
from mplug.errors import MplugError
from mplug.evaluation.forms import form_of, lines_of
from mplug.train.splits import Split
from mplug.train.text.rows import TextRow, held_out

POEMS_FILE = "text_poem.jsonl"
COUPLETS_FILE = "text_couplet.jsonl"

FIVE = "五言诗"
"""Lines of five characters, asked for as if they were a tune."""
_TUNE = "词牌："
_AUTHOR = " 作者："


@dataclass(frozen=True, slots=True)
class Poem:
    """One ci poem."""

    tune: str
    """One of its names."""
    text: str
    """In one line: ends of lines are what punctuation says."""
    split: Split


@dataclass(frozen=True, slots=True)
class Couplet:
    """Two lines that answer each other."""

    first: str
    second: str
    split: Split


def read_poems(folder: Path) -> list[Poem]:
    """The poems of a data folder, those without text left out.

    Raises:
        MplugError: no such file, or a row of another kind.
    """
    found = []
    for row, place in json_rows(folder / POEMS_FILE, "prompt", "text"):
        names, author, _ = str(row["prompt"]).removeprefix(_TUNE).partition(_AUTHOR)
        if not author:
            raise MplugError(f"{place}: the prompt is {row['prompt']!r}; give {_TUNE}NAME{_AUTHOR}NAME")
        text = "".join(str(row["text"]).split())
        if text:
            found.append(Poem(_one_of(names.split("・"), text), text, held_out(text)))
    return found


def read_couplets(folder: Path) -> list[Couplet]:
    """The couplets of a data folder.

    Raises:
        MplugError: no such file, or a row of another kind.
    """
    return [
        Couplet(str(row["text"]), str(row["answer"]), held_out(str(row["text"])))
        for row, _ in json_rows(folder / COUPLETS_FILE, "text", "answer")
    ]


def general_rows(poems: Sequence[Poem], couplets: Sequence[Couplet]) -> list[TextRow]:
    """The first stage's: texts alone."""
    return [
        *(TextRow("", poem.text) for poem in poems),
        *(TextRow("", f"{couplet.first}，{couplet.second}。") for couplet in couplets),
    ]


def prompt_rows(poems: Sequence[Poem], couplets: Sequence[Couplet]) -> list[TextRow]:
    """The second stage's: prompts with what is to follow."""
    return [
        *(TextRow(prompts.poem(tune=poem.tune), poem.text) for poem in poems),
        *(TextRow(prompts.poem(tune=FIVE), text, weight=2.0) for text in five_character_texts(poems)),
        *(TextRow(prompts.couplet(couplet.first), couplet.second, weight=2.0) for couplet in couplets),
        *(TextRow(prompts.couplet(first), second, weight=0.5) for first, second in neighbours(poems)),
    ]


def five_character_texts(poems: Sequence[Poem]) -> list[str]:
    """Runs of at least four lines in poems that have five characters each, an even number of them."""
    return [text for poem in poems for text in _runs(poem.text)]


def neighbours(poems: Sequence[Poem]) -> Iterator[tuple[str, str]]:
    """Lines of equal length that follow each other, of at least five characters."""
    for poem in poems:
        lines = lines_of(poem.text)
        for first, second in zip(lines[::2], lines[1::2], strict=False):
            if len(first) == len(second) >= 5:
                yield first, second


def longer(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of two to four lines each, put together of shorter ones: the data has few long ones to learn from.

    Args:
        pairs: lines of equal length; half as many come out, the same for the same pairs.
    """
    chance = random.Random(len(pairs))
    drawn = [
        chance.sample(pairs, chance.randint(2, 4)) for _ in range(len(pairs) // 2 if len(pairs) > 3 else 0)
    ]
    return [
        (prompts.COMMA.join(first for first, _ in some), prompts.COMMA.join(second for _, second in some))
        for some in drawn
    ]


def opening(text: str) -> str:
    """The first line of a text, with the mark behind it."""
    length = len(lines_of(text)[0])
    return text[: length + 1]


def _runs(text: str) -> Iterator[str]:
    marked = _marked_lines(text)
    start = 0
    for end in range(len(marked) + 1):
        if end < len(marked) and form_of(marked[end]) == (5,):
            continue
        count = (end - start) // 2 * 2
        if count >= 4:
            yield "".join(marked[start : start + count])
        start = end + 1


def _marked_lines(text: str) -> list[str]:
    """Lines, each with the marks behind it."""
    lines, begin = [], 0
    for line in lines_of(text):
        end = text.index(line, begin) + len(line)
        while end < len(text) and not form_of(text[end]):
            end += 1
        lines.append(text[begin:end])
        begin = end
    return lines


def _one_of(names: Sequence[str], text: str) -> str:
    """Which of a tune's names a poem is known by, always the same."""
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return names[digest[-1] % len(names)]


def json_rows(file: Path, *fields: str) -> Iterator[tuple[dict[str, Any], str]]:
    """JSON lines with these fields, and the place of each. Any: JSON."""
    if not file.is_file():
        raise MplugError(f"there is no {file.name} in {file.parent}; name the folder that has it with --data")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if lacking := [name for name in fields if name not in row]:
            raise MplugError(f"{file}, line {number}: lacks {', '.join(lacking)}")
        yield row, f"{file}, line {number}"
