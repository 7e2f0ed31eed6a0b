"""Writes the rows that the small models are measured on, and those that tell a tune's forms, for `mplug eval text`.

    python -m mplug.train.text.export_rows --data FOLDER --output FOLDER

Sources are bare: a tune's name, a first line, an abstract; of lines of five characters the prompt with the first one.
The files hold texts of the data: its licence is theirs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from mplug import prompts
from mplug.train.splits import Split
from mplug.train.text import poems, titles
from mplug.train.text.minis import of

Row = tuple[str, str]
"""Source and target."""

_PARTS = {"train": Split.TRAIN, "dev": Split.DEV, "test": Split.HELD_OUT}


def rows_by_file(data: Path, part: Split) -> dict[str, list[Row]]:
    """The rows of a split, by the name of their file.

    Args:
        data: folder with the files of `poems` and `titles`.
        part: which split.
    """
    verses = of(poems.read_poems(data), part)
    couplets = of(poems.read_couplets(data), part)
    abstracts = of(titles.read_abstracts(data), part)
    return {
        "poems": [(poem.tune, poem.text) for poem in verses],
        "fives": [_opened(text) for text in poems.five_character_texts(verses)],
        "couplets": [(couplet.first, couplet.second) for couplet in couplets],
        "titles": [(abstract.text, abstract.title) for abstract in abstracts],
    }


def _opened(text: str) -> Row:
    first = poems.opening(text)
    return prompts.poem(first, tune=poems.FIVE), text[len(first) :]


def _write(file: Path, rows: Iterable[Row]) -> None:
    lines = (json.dumps({"source": source, "target": target}, ensure_ascii=False) for source, target in rows)
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Command line, see the module's docstring."""
    parser = argparse.ArgumentParser(description="Write rows to measure the small text models on.")
    parser.add_argument("--data", type=Path, required=True, help="folder with text_*.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="folder for poems-test.jsonl and so on")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in _PARTS.items():
        for kind, rows in rows_by_file(args.data, part).items():
            _write(args.output / f"{kind}-{name}.jsonl", rows)
            print(f"{kind}-{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
