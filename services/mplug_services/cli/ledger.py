"""A file of results that grows line by line and survives being killed, with a ledger of what is in it.

The results are JSON lines, one for each item, with its "id". Beside them lies FILE.ledger: its first line
says with which settings they are made, every further one which items a batch added and how long the results
were then. Results reach the disk before the ledger names them. Whoever comes after a kill therefore finds
the ledger's items in the results, perhaps whole lines that the ledger does not name yet, which count as
well, and perhaps the beginning of a line, which is cut off. A line that was once written whole stays.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from mplug_services.cli.common import CliError, UsageError

SUFFIX = ".ledger"
_VERSION = 1

JsonObject = Mapping[str, Any]
"""Any: whatever JSON holds."""


class ResultFile:
    """Results of a job that can be taken up again; one process at a time.

    Args:
        path: of the results; those of an earlier run with the same settings are kept.
        settings: what the results depend on, as JSON values.

    Raises:
        UsageError: The file was made with other settings, or by something else.
        CliError: Another process writes it, it was changed meanwhile, or it cannot be written.
    """

    def __init__(self, path: Path, settings: JsonObject) -> None:
        self.path = path
        self.ledger_path = path.with_name(path.name + SUFFIX)
        self.done: set[str] = set()
        """Ids of the items that have their line."""
        try:
            with ExitStack() as opened:
                opened.enter_context(self._take_lock())
                self._begin(settings)
                self._results = opened.enter_context(path.open("ab"))
                self._ledger = opened.enter_context(self.ledger_path.open("ab"))
                self._recover()
                self._opened = opened.pop_all()
        except OSError as error:
            raise CliError(f"{path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; what was added is on the disk already."""
        self._opened.close()

    def add(self, lines: Iterable[JsonObject]) -> None:
        """Appends results, whose ids are new; they are on the disk when this returns."""
        batch = list(lines)
        ids = [str(line["id"]) for line in batch]
        assert len(set(ids) - self.done) == len(ids), "an item has one line"
        if not batch:
            return
        self._results.write(b"".join(_line(line) for line in batch))
        _to_disk(self._results)
        self._record(ids)

    def _record(self, ids: list[str]) -> None:
        self._ledger.write(_line({"ids": ids, "end": self._results.tell()}))
        _to_disk(self._ledger)
        self.done.update(ids)

    def _take_lock(self) -> IO[bytes]:
        # A file of its own: the ledger is put in place by renaming, and locks belong to the file, not the name.
        lock = self.path.with_name(self.path.name + ".lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise CliError(
                f"another process writes {self.path}; wait for it, or name another --output"
            ) from None
        return lock

    def _begin(self, settings: JsonObject) -> None:
        """Writes the ledger's first line, or compares it."""
        header = {"ledger": _VERSION, "settings": dict(settings)}
        if not self.ledger_path.exists():
            if self.path.exists() and self.path.stat().st_size:
                raise UsageError(
                    f"{self.path} is there and has no ledger ({self.ledger_path.name}): it was not made by this "
                    "command, which will not add to it; name another --output"
                )
            write_whole(self.ledger_path, _line(header))
            return
        with self.ledger_path.open("rb") as file:
            found = _parse(file.readline())
        if found is None or found.get("ledger") != _VERSION:
            raise UsageError(f"{self.ledger_path} is not a ledger of this version; name another --output")
        if found["settings"] != header["settings"]:
            raise UsageError(
                f"{self.path} was begun with other settings ({_differences(found['settings'], settings)}); give "
                "those again, or name another --output"
            )

    def _recover(self) -> None:
        end = self._read_ledger()
        size = os.fstat(self._results.fileno()).st_size
        if size < end:
            raise CliError(
                f"{self.path} has {size} bytes, and its ledger knows of {end}: it was changed; put it back, or delete "
                f"{self.ledger_path.name} with it and begin again"
            )
        ids, end = self._unrecorded(end)
        if end < size:
            self._results.truncate(end)
        self._results.seek(0, os.SEEK_END)
        _to_disk(self._results)
        if ids:
            self._record(ids)

    def _read_ledger(self) -> int:
        """Where the results ended; cuts off the beginning of a record."""
        end = kept = 0
        with self.ledger_path.open("rb") as file:
            kept = len(file.readline())
            for line in file:
                record = _parse(line)
                if record is None:
                    break
                self.done.update(record["ids"])
                end, kept = int(record["end"]), kept + len(line)
        self._ledger.truncate(kept)
        return end

    def _unrecorded(self, end: int) -> tuple[list[str], int]:
        """Ids of whole lines that the ledger does not name, and where the last of them ends."""
        ids: list[str] = []
        with self.path.open("rb") as file:
            file.seek(end)
            for line in file:
                result = _parse(line)
                if result is None or "id" not in result:
                    break
                ids.append(str(result["id"]))
                end += len(line)
        return ids, end


def _line(value: JsonObject) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; it is on the disk when this returns."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        _to_disk(file)
    partial.replace(path)


def _differences(was: JsonObject, wanted: JsonObject) -> str:
    names = sorted(name for name in {*was, *wanted} if was.get(name) != wanted.get(name))
    return ", ".join(f"{name} {was.get(name)!r}, not {wanted.get(name)!r}" for name in names)
