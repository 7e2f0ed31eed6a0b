"""A client's rows on their way into a job's folder: pictures as files, texts in lines. Everything here blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from mplug_services.errors import Failure, ServiceError, StatusCode
from mplug_services.jobs.rows import SentRow, columns, made_name

ROWS_FILE = ".rows.jsonl"
"""No picture's name begins with a dot."""
MAX_NAMED_FAULTS = 20
"""Rows that one answer names; with more the client is not read on."""


class Upload:
    """Rows that are written as they come.

    Args:
        folder: of the job; gets a folder `data`.
        max_bytes: most that all rows may have.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder / "data"
        self.faults: dict[str, str] = {}
        """What is wrong, by the path of the field."""
        self.count = 0
        """Rows so far."""
        self._room = max_bytes
        self._max_bytes = max_bytes
        self._pictures: dict[str, bytes] = {}
        self.folder.mkdir()

    def add(self, rows: Sequence[tuple[SentRow, bytes | None, Sequence[tuple[str, str]]]]) -> None:
        """Write rows.

        Args:
            rows: each with its picture's bytes, if it is of one, and what is wrong with it; after the first fault
                nothing more is written, but faults are gathered.

        Raises:
            ServiceError: enough is wrong, or there is too much.
        """
        # Opened for each part: a client may go at any time, and nobody would close what is held open meanwhile.
        with (self.folder / ROWS_FILE).open("a", encoding="utf-8") as stream:
            for row, image, wrong in rows:
                number = self.count
                self.count += 1
                self.faults |= {f"rows[{number}].{field}": reason for field, reason in wrong}
                if not self.faults:
                    self._write(number, _named(row, number, image), image, stream)
        if len(self.faults) >= MAX_NAMED_FAULTS:
            self.refuse()

    def close(self) -> None:
        """End the upload.

        Raises:
            ServiceError: there is nothing, or something is wrong.
        """
        if self.faults:
            self.refuse()
        if not self.count:
            raise _refusal(
                "NO_ROWS", "rows: there are none; send some, or name data under a job root", {"rows": "none"}
            )

    def refuse(self) -> None:
        """Say what is wrong.

        Raises:
            ServiceError: in any case.
        """
        field, reason = next(iter(self.faults.items()))
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        raise _refusal("BAD_ROWS", f"{field}: {reason}{more}", self.faults)

    def _write(self, number: int, row: SentRow, image: bytes | None, stream: TextIO) -> None:
        line = json.dumps(columns(row), ensure_ascii=False) + "\n"
        self._room -= len(line.encode()) + len(image or b"")
        if self._room < 0:
            message = f"the limit is {self._max_bytes} bytes for all rows together; put them under a job root"
            raise _refusal("DATA_TOO_LARGE", f"rows[{number}]: {message}", {f"rows[{number}]": message})
        stream.write(line)
        if image is not None:
            self._write_picture(number, row, image)

    def _write_picture(self, number: int, row: SentRow, image: bytes) -> None:
        digest = hashlib.sha256(image).digest()
        if row.name in self._pictures:
            if self._pictures[row.name] != digest:
                self.faults[f"rows[{number}].name"] = f"{row.name!r} was another picture's name before"
            return
        self._pictures[row.name] = digest
        file = self.folder / row.name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as picture:
                picture.write(image)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            self.faults[f"rows[{number}].name"] = (
                f"{row.name!r} cannot be a file and a folder of other pictures"
            )


def _named(row: SentRow, number: int, image: bytes | None) -> SentRow:
    if image is None:
        return replace(row, name="")
    return row if row.name else replace(row, name=made_name(number, image))


def _refusal(reason: str, message: str, violations: dict[str, str]) -> ServiceError:
    failure = Failure(code=StatusCode.INVALID_ARGUMENT, reason=reason, message=message, violations=violations)
    return ServiceError(failure)
