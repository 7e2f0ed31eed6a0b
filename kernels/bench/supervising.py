"""Tasks in child processes: a kernel that crashes or hangs costs its own record and a new child, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]
PATIENCE = 75.0
"""Seconds without news after which a child is taken to hang; starting torch and a GPU takes up to 30."""
MOST_CHILDREN = 12
"""For one list of tasks."""
POLL = 0.05
MOST_SAID = 20_000
"""Characters that are kept of a child's output."""
STICKY = ("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address")
"""Errors after which a process can do nothing more on its GPU."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every child is told."""

    device: str
    tiny: bool
    ceilings: dict[str, float] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    """A program that runs the child, with its options."""
    children: int = MOST_CHILDREN
    """At most."""
    patience: float = PATIENCE
    ends: list[str] = field(default_factory=list, compare=False)
    """How the children ended, added to by `supervise`."""
    outputs: list[str] = field(default_factory=list, compare=False)
    """What they printed, the end of it."""

    def command(self, log: Path) -> list[str]:
        """The child's command line."""
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "bench.worker",
            "--device",
            self.device,
            "--log",
            str(log),
        ]
        if self.tiny:
            command.append("--tiny")
        if self.ceilings:
            command += ["--ceilings", json.dumps(self.ceilings)]
        return command


def supervise(keys: Iterable[str], setting: Setting, deadline: float) -> dict[str, Record]:
    """Do tasks until all are done or the deadline (`time.monotonic`) is over.

    Returns:
        by key, the records of those that were done or that broke a child. Others were not reached.
    """
    waiting = list(dict.fromkeys(keys))
    records: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(setting.children):
            if not waiting or time.monotonic() >= deadline:
                break
            log = Path(folder) / f"{number}.jsonl"
            end = _child(waiting, setting, log, deadline)
            setting.ends.append(end)
            records |= _read(log, end)
            waiting = [key for key in waiting if key not in records]
    return records


def _child(keys: list[str], setting: Setting, log: Path, deadline: float) -> str:
    """Run one child; how it ended."""
    log.touch()
    package = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **setting.environment}
    # To a file: a pipe that nobody reads would stop the child.
    with open(log.with_suffix(".txt"), "w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            setting.command(log),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            env=environment,
        )
        assert child.stdin is not None
        try:
            child.stdin.write("\n".join(keys))
            child.stdin.close()
        except BrokenPipeError:
            pass
        end = _watch(child, log, deadline, setting.patience)
        output.seek(0)
        said = output.read().strip()
    setting.outputs.append(said[-MOST_SAID:])
    last = said.splitlines()[-1:]
    return " ".join([end, *last])[:300]


def _watch(child: subprocess.Popen[str], log: Path, deadline: float, patience: float) -> str:
    size, heard = 0, time.monotonic()
    while child.poll() is None:
        time.sleep(POLL)
        now, grown = time.monotonic(), log.stat().st_size
        if grown > size:
            size, heard = grown, now
            if _is_spent(log):
                _end(child)
                return "the GPU was left unusable;"
        if now >= deadline:
            _end(child)
            return "out of time;"
        if now - heard > patience:
            _end(child)
            return f"no news for {patience:.0f} s;"
    return f"exit status {child.returncode};"


def _is_spent(log: Path) -> bool:
    last = log.read_text(encoding="utf-8").splitlines()[-2:]
    return any(word in line for line in last for word in STICKY)


def _end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()


def _read(log: Path, end: str) -> dict[str, Record]:
    records: dict[str, Record] = {}
    begun: str | None = None
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a line that its writer did not finish
            continue
        state = record.pop("state")
        begun = record["key"] if state == "begun" else None
        if state == "done":
            records[record["key"]] = record
    if begun is not None and not end.startswith("out of time"):
        records[begun] = {"key": begun, "failed": f"the process ended: {end}"}
    return records
