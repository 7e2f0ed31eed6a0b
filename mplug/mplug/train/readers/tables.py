"""JSON lines and CSV: rows found by an index of every 64th row's place, so that a file of any size fits."""

import csv
import json
from abc import abstractmethod
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mplug.errors import MplugError
from mplug.train.readers.example import Example
from mplug.train.readers.rows import Columns, Row, to_example
from mplug.train.readers.source import IndexedSource

_STRIDE = 64
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # spreadsheets write one in front of UTF-8


class _Record(NamedTuple):
    offset: int
    """Byte in the file."""
    line: int
    """Counted from 1."""
    content: Any
    """What `TableSource._row` understands."""


class TableSource(IndexedSource):
    """One text file of rows.

    Args:
        path: the file.
        columns: how rows are read.
        split: of the rows that name none.

    Raises:
        MplugError: no such file, no rows in it, or it is not UTF-8.
    """

    def __init__(self, path: Path, columns: Columns, split: str = "") -> None:
        if not path.is_file():
            raise MplugError(f"No file {path}: name an existing .jsonl or .csv file.")
        self._path = path
        self._columns = columns
        self._split = split
        self._offsets, self._lines = array("Q"), array("Q")
        self._count = 0
        for record in self._records(*self._begin()):
            if self._count % _STRIDE == 0:
                self._offsets.append(record.offset)
                self._lines.append(record.line)
            self._count += 1
        if not self._count:
            raise MplugError(f"{path} has no rows.")

    def num_examples(self) -> int:
        """Rows of the file."""
        return self._count

    def read(self, reference: int) -> Example:
        """Reads a row."""
        block, within = divmod(reference, _STRIDE)
        records = self._records(self._offsets[block], self._lines[block])
        return self._example(next(islice(records, within, None)))

    def __iter__(self) -> Iterator[Example]:
        return map(self._example, self._records(*self._begin()))

    def _example(self, record: _Record) -> Example:
        return to_example(
            Row(self._values(record), self._path, f"line {record.line}", self._split), self._columns
        )

    @abstractmethod
    def _begin(self) -> tuple[int, int]:
        """Byte and line of the first row."""

    @abstractmethod
    def _records(self, offset: int, line: int) -> Iterator[_Record]:
        """The rows from a place on."""

    @abstractmethod
    def _values(self, record: _Record) -> dict[str, Any]:
        """The columns of a row."""

    def _mark_length(self, file: BinaryIO) -> int:
        return len(_BYTE_ORDER_MARK) if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK else 0


def _decode(path: Path, content: bytes, line: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise MplugError(f"{path}, line {line}: not UTF-8; save the file as UTF-8.") from error


def json_object(path: Path, line: int, content: bytes) -> dict[str, Any]:
    """The object in a line of a file.

    Raises:
        MplugError: the line is not UTF-8, not JSON, or no object.
    """
    try:
        values = json.loads(_decode(path, content, line))
    except json.JSONDecodeError as error:
        raise MplugError(f"{path}, line {line}: not JSON ({error}); give one object a line.") from error
    if not isinstance(values, dict):
        raise MplugError(
            f"{path}, line {line}: {type(values).__name__} is no row; give a JSON object such as "
            '{"image": "a.jpg", "captions": ["a dog"]}.'
        )
    return values


class JsonLines(TableSource):
    """A JSON object in each line; empty lines are passed over."""

    def _begin(self) -> tuple[int, int]:
        with self._path.open("rb") as file:
            return self._mark_length(file), 1

    def _records(self, offset: int, line: int) -> Iterator[_Record]:
        with self._path.open("rb") as file:
            file.seek(offset)
            for number, content in enumerate(file, line):
                if content.strip():
                    yield _Record(offset, number, content)
                offset += len(content)

    def _values(self, record: _Record) -> dict[str, Any]:
        return json_object(self._path, record.line, record.content)


class CommaSeparated(TableSource):
    """CSV with a header line, as spreadsheets write it; a cell may span lines, and may hold a JSON list."""

    def _begin(self) -> tuple[int, int]:
        with self._path.open("rb") as file:
            mark = self._mark_length(file)
        head = list(islice(self._records(mark, 1), 2))
        if not head:
            raise MplugError(f"{self._path} is empty: its first line must name the columns.")
        self._header: list[str] = [name.strip() for name in head[0].content]
        if len(set(self._header)) < len(self._header):
            raise MplugError(
                f"{self._path}, line 1: two columns have one name ({', '.join(self._header)}); rename one."
            )
        return (head[1].offset, head[1].line) if len(head) > 1 else (self._path.stat().st_size, 0)

    def _records(self, offset: int, line: int) -> Iterator[_Record]:
        with self._path.open("rb") as file:
            file.seek(offset)
            walk = _Lines(self._path, file, offset, line)
            rows = csv.reader(walk, strict=True)
            while True:
                place = walk.offset, walk.line
                try:
                    cells = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise MplugError(
                        f"{self._path}, line {place[1]}: {error}; quote cells that hold commas, quotes or line "
                        "breaks."
                    ) from error
                if cells:
                    yield _Record(*place, cells)

    def _values(self, record: _Record) -> dict[str, Any]:
        if len(record.content) != len(self._header):
            raise MplugError(
                f"{self._path}, line {record.line}: {len(record.content)} cells under {len(self._header)} columns "
                f"({', '.join(self._header)}); quote cells that hold commas."
            )
        return dict(zip(self._header, record.content, strict=True))


class _Lines:
    """Lines of a file, with the place up to which they were taken."""

    def __init__(self, path: Path, file: BinaryIO, offset: int, line: int) -> None:
        self._path = path
        self._file = file
        self.offset = offset
        self.line = line

    def __iter__(self) -> Iterator[str]:
        for content in self._file:
            self.offset += len(content)
            self.line += 1
            yield _decode(self._path, content, self.line - 1)
