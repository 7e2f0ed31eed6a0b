"""How far a run is, by the log that it writes (`mplug.train.reporting`)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from mplug_services.jobs.records import TrainProgress


class LogTail:
    """Reads a log as it grows; begins anew where it was replaced, as a run that goes on does. Blocks.

    Args:
        log: of the run; need not be there yet.
        steps: a file that holds the number of the run's steps; likewise.
    """

    def __init__(self, log: Path, steps: Path) -> None:
        self._log = log
        self._steps = steps
        self._begin()

    def _begin(self) -> None:
        self._inode = 0
        self._offset = 0
        self._progress = TrainProgress()

    def read(self) -> TrainProgress | None:
        """What the log says now; None before its first line."""
        try:
            num_steps = int(self._steps.read_text())
            with self._log.open("rb") as stream:
                self._follow(stream)
        except (FileNotFoundError, ValueError):
            return None
        self._progress = replace(self._progress, num_steps=num_steps)
        return self._progress if self._offset else None

    def _follow(self, stream: BinaryIO) -> None:
        status = os.fstat(stream.fileno())
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._begin()
            self._inode = status.st_ino
        stream.seek(self._offset)
        *lines, _ = stream.read().split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            values: dict[str, Any] = json.loads(line)  # Any: JSON
        except ValueError:  # cut off by a failure of the power, before a later line
            return
        if "metrics" in values:
            self._progress = replace(
                self._progress,
                step=max(values["step"], self._progress.step),
                metrics=values["metrics"],
                metrics_step=values["step"],
            )
        elif "losses" in values:
            self._progress = replace(
                self._progress,
                step=values["step"],
                loss=values["loss"],
                losses=values["losses"],
                step_seconds=values["seconds_per_step"],
            )
