"""The jobs of a folder, durable when a call returns. Methods may be called from any thread; those that write block."""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mplug_index.locks import DirectoryLock
from mplug_index.storage import sync_directory
from mplug_services.errors import already_exists, not_found
from mplug_services.jobs.files import sync_tree, write_whole
from mplug_services.jobs.records import JobRecord, JobState, TrainProgress, from_json, to_json

logger = logging.getLogger(__name__)

_RECORD = "job.json"
_INCOMING = "incoming"


class JobStore:
    """Opens the folder, or makes it. Jobs that a server left running are queued again.

    Args:
        folder: see the package.

    Raises:
        DatabaseLockedError: another process has it open.
        OSError: it cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = DirectoryLock(folder / "lock")
        self._changing = threading.Lock()
        shutil.rmtree(folder / _INCOMING, ignore_errors=True)
        (folder / _INCOMING).mkdir()
        sync_directory(folder)
        self._jobs = {record.id: record for record in self._read()}
        for record in self._jobs.values():
            if record.state.ended:  # the server may have been killed before it had cleaned
                self.clean(record.id)

    def _read(self) -> Iterator[JobRecord]:
        for file in self._folder.glob(f"*/{_RECORD}"):
            try:
                record = from_json(file.read_text(encoding="utf-8"))
            except (ValueError, TypeError, KeyError):
                logger.exception("%s is no job; its folder is left as it is", file)
                continue
            yield record if record.state.ended else replace(record, state=JobState.QUEUED)

    def close(self) -> None:
        """Give the folder free."""
        self._lock.release()

    def folder(self, id: str) -> Path:
        """The folder of a job."""
        return self._folder / id

    def get(self, id: str) -> JobRecord:
        """A job.

        Raises:
            ServiceError: there is none of this id.
        """
        record = self._jobs.get(id)
        if record is None:
            raise not_found("JOB_NOT_FOUND", f"there is no job {id[:200]!r}")
        return record

    def all(self) -> list[JobRecord]:
        """All jobs, the oldest first."""
        return sorted(self._jobs.values(), key=lambda record: record.number)

    def by_request(self, request_id: str) -> JobRecord | None:
        """The job that a request made."""
        if not request_id:
            return None
        return next((each for each in self.all() if each.request_id == request_id), None)

    def check_model(self, name: str) -> None:
        """Refuse the name of a model that is there, or will be.

        Raises:
            ServiceError: another job has it.
        """
        for record in self.all():
            if record.claims_model and record.spec.model == name:
                message = f"options.train.model: {name!r} is the model of job {record.id}; choose another"
                raise already_exists("MODEL_EXISTS", message)

    def make_incoming(self) -> Path:
        """A folder for a job on its way; `add` takes it over, or the caller deletes it."""
        folder = self._folder / _INCOMING / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def add(self, record: JobRecord, folder: Path) -> JobRecord:
        """Take a job in.

        Args:
            record: its number is given here.
            folder: of `make_incoming`, with its data.

        Returns:
            The job; the first one, where its request made one before.

        Raises:
            ServiceError: the name of its model is taken.
        """
        with self._changing:
            known = self.by_request(record.request_id)
            if known is not None:
                return known
            self.check_model(record.spec.model)
            record = replace(record, number=1 + max((each.number for each in self._jobs.values()), default=0))
            write_whole(folder / _RECORD, to_json(record))
            sync_tree(folder)
            folder.rename(self.folder(record.id))
            sync_directory(self._folder)
            self._jobs[record.id] = record
            return record

    def change(self, id: str, **changes: Any) -> JobRecord:
        """Change fields of a job that has not ended.

        Args:
            id: of the job.
            changes: fields of `JobRecord` and their new values. Any: each has its own type.

        Returns:
            The job as it is then: as it was, where it had ended before.
        """
        with self._changing:
            record = self._jobs[id]
            if not record.state.ended:
                record = replace(record, **changes)
                write_whole(self.folder(id) / _RECORD, to_json(record))
                self._jobs[id] = record
            return record

    def note(self, id: str, progress: TrainProgress) -> None:
        """Remember how far a job is. This is not written down: its log says it."""
        with self._changing:
            if not self._jobs[id].state.ended:
                self._jobs[id] = replace(self._jobs[id], progress=progress)

    def clean(self, id: str) -> None:
        """Delete what only an unfinished job needs."""
        folder = self.folder(id)
        for name in ("data", "output/checkpoints"):
            shutil.rmtree(folder / name, ignore_errors=True)
        if self._jobs[id].result is None:
            for name in ("output/output_best", "output/export"):
                shutil.rmtree(folder / name, ignore_errors=True)
        with suppress(FileNotFoundError):
            (folder / "order.json").unlink()
