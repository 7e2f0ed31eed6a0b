"""Finds out what kind of data a path or pattern names."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from mplug.errors import MplugError
from mplug.train.readers.parquet import ParquetSource
from mplug.train.readers.rows import Columns
from mplug.train.readers.shards import ShardSource
from mplug.train.readers.source import Concatenated, IndexedSource, Source
from mplug.train.readers.tables import CommaSeparated, JsonLines, TableSource

_TABLES: Mapping[str, type[TableSource]] = {".jsonl": JsonLines, ".ndjson": JsonLines, ".csv": CommaSeparated}
_KINDS = ".jsonl, .csv, .parquet, .tar, or a Hugging Face-style folder"
_SPLIT_NAME = re.compile(r"(?:^|[-_.])(train|dev|val|valid|validation|test)(?=[-_.]|$)")
_MAGIC = set("*?[{")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")

_Files = Sequence[tuple[Path, str]]
"""Files, each with the split of its rows that name none."""


def open_source(
    where: str | Path,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    images: Path | None = None,
) -> Source[Any]:
    """Opens rows for training or evaluation.

    Args:
        where: a .jsonl, .csv, .parquet or .tar file; a pattern of such files with ``*`` or ``{000..009}``; or a folder:
            metadata.jsonl, .csv or .parquet beside the pictures or in folders named after splits, or Parquet files.
        task: rows that lack what this task needs are refused (`example.TASK_FIELDS`).
        columns: the column of a field where it has another name, e.g. ``{"captions": "alt"}``.
        images: folder that image paths are relative to; by default the one of the file that names them.

    Returns:
        The rows; nothing of them but an index is held.

    Raises:
        MplugError: nothing is there, its kind is unknown, or the file is broken: what, where, and what to do.
    """
    rules = Columns(task=task, names=dict(columns or {}), images=images)
    if Path(where).is_dir():
        return _open(_folder_files(Path(where)), rules)
    paths = sorted({Path(path) for pattern in _expand(str(where)) for path in _matches(pattern)})
    if not paths:
        raise MplugError(f"Nothing matches {where}: name {_KINDS}.")
    return _open([(path, "") for path in paths], rules)


def folder_of(where: str | Path) -> Path:
    """The folder that all files of a path or pattern lie in."""
    path = Path(where)
    if path.is_dir():
        return path
    if path.exists():
        return path.parent
    return Path(*itertools.takewhile(lambda part: not _MAGIC & set(part), path.parent.parts))


def _open(files: _Files, rules: Columns) -> Source[Any]:
    endings = {path.suffix.lower() for path, _ in files}
    if len(endings) > 1:
        raise MplugError(
            f"{', '.join(sorted(endings))} files together: open each kind as a source of its own."
        )
    ending = endings.pop()
    if ending in _TABLES:
        parts: list[IndexedSource] = [_TABLES[ending](path, rules, split) for path, split in files]
        return parts[0] if len(parts) == 1 else Concatenated(parts)
    if ending == ".parquet":
        return ParquetSource(files, rules)
    if ending == ".tar":
        return ShardSource([path for path, _ in files], rules)
    first = files[0][0]
    if ending in (".gz", ".tgz", ".zst", ".xz", ".bz2", ".zip"):
        raise MplugError(
            f"{first} is compressed, so that no row of it can be reached directly: unpack it first."
        )
    if ending == ".json":
        raise MplugError(f"{first}: .json is one value; write one JSON object a line and name it .jsonl.")
    raise MplugError(f"{first}: unknown kind of data {ending!r}; there are {_KINDS}.")


def _matches(pattern: str) -> list[str]:
    return glob(pattern, recursive=True) if has_magic(pattern) and not Path(pattern).exists() else [pattern]


def _expand(pattern: str) -> Iterator[str]:
    """``{000..009}`` and ``{a,b}`` written out, as a shell does."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, names = found.groups()
    choices = (
        names.split(",")
        if names is not None
        else [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    )
    for choice in choices:
        yield from _expand(pattern[: found.start()] + choice + pattern[found.end() :])


def _folder_files(folder: Path) -> _Files:
    """What a Hugging Face-style folder is read from; cards, scripts and the pictures themselves are passed over."""
    for name in ("metadata.jsonl", "metadata.csv", "metadata.parquet"):
        found = sorted(path for path in (folder / name, *folder.glob(f"*/{name}")) if path.is_file())
        if found:
            return [(path, _split_of(path.parent.name) if path.parent != folder else "") for path in found]
    for place in (folder / "data", folder):
        found = sorted(place.glob("*.parquet")) or sorted(place.glob("*.tar"))
        if found:
            return [(path, _split_of(path.stem)) for path in found]
    raise MplugError(
        f"{folder} is no folder of training data: there is no metadata.jsonl, metadata.csv or metadata.parquet in it "
        "or in its folders, and no .parquet or .tar in it or in data/. Name the file itself if it has another name."
    )


def _split_of(name: str) -> str:
    found = _SPLIT_NAME.search(name.lower())
    return found.group(1) if found else ""
