"""Parquet files, read a row group at a time; pictures as paths or as Hugging Face's ``{bytes, path}``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mplug.errors import MplugError
from mplug.train.readers.example import Example
from mplug.train.readers.rows import Columns, Row, to_example
from mplug.train.readers.source import IndexedSource

if TYPE_CHECKING:
    import pyarrow as pa

_HELD_BYTES = 2**30
"""Row groups held at once, uncompressed; one that is larger is refused."""
_MAX_WINDOW = 32


class ParquetSource(IndexedSource):
    """Parquet files one after another. The rows of as many row groups are mixed as fit into memory.

    Args:
        files: each with the split of the rows that name none.
        columns: how rows are read.

    Raises:
        MplugError: pyarrow is missing, a file cannot be read, a row group is too large, or there are no rows.
    """

    def __init__(self, files: Sequence[tuple[Path, str]], columns: Columns) -> None:
        self._columns = columns
        self._files = files
        self._groups: list[tuple[int, int]] = []
        """File and number in it, of every row group."""
        sizes, largest = [], 1
        for number, (path, _) in enumerate(files):
            for group, (rows, num_bytes) in enumerate(_row_groups(path)):
                if rows:
                    self._groups.append((number, group))
                    sizes.append(rows)
                    largest = max(largest, num_bytes)
        if not sizes:
            raise MplugError(f"{', '.join(str(path) for path, _ in files[:3])}: no rows.")
        self._ends = np.cumsum(sizes)
        self.blocks = self._ends - np.array(sizes)
        self.window = max(1, min(_MAX_WINDOW, _HELD_BYTES // largest))
        self._held: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def num_examples(self) -> int:
        """Rows of all files."""
        return int(self._ends[-1])

    def read(self, reference: int) -> Example:
        """Reads a row, with the row group around it where that is not held."""
        group = int(np.searchsorted(self._ends, reference, "right"))
        within = reference - int(self.blocks[group])
        values = {name: column[within].as_py() for name, column in self._columns_of(group).items()}
        file, number = self._groups[group]
        path, split = self._files[file]
        place = f"row {within + 1}" if number == 0 else f"row {within + 1} of row group {number}"
        return to_example(Row(values, path, place, split), self._columns)

    def _columns_of(self, group: int) -> dict[str, Any]:
        with self._lock:
            if group not in self._held:
                file, number = self._groups[group]
                self._held[group] = _read_group(self._files[file][0], number)
                while len(self._held) > self.window:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            table = self._held[group]
        return dict(zip(table.column_names, table.columns, strict=True))


def _row_groups(path: Path) -> list[tuple[int, int]]:
    """Rows and uncompressed bytes of each."""
    if not path.is_file():
        raise MplugError(f"No file {path}: name an existing .parquet file.")
    parquet = _pyarrow_parquet()
    try:
        metadata = parquet.read_metadata(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise MplugError(f"{path} is not a Parquet file, or is cut off: {error}") from error
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    for number, group in enumerate(groups):
        if group.total_byte_size > _HELD_BYTES:
            raise MplugError(
                f"{path}, row group {number}: {group.total_byte_size} bytes, more than the {_HELD_BYTES} that are "
                "held in memory; write the file with smaller ones, e.g. write_table(..., row_group_size=1000)."
            )
    return [(group.num_rows, group.total_byte_size) for group in groups]


def _read_group(path: Path, number: int) -> pa.Table:
    parquet = _pyarrow_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            return file.read_row_group(number)
    except (OSError, ValueError) as error:
        raise MplugError(f"{path}, row group {number} cannot be read: {error}") from error


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MplugError(
            "Reading Parquet needs pyarrow: pip install 'mplug-serve[train]', or convert the data to .jsonl."
        ) from error
    return pyarrow.parquet
