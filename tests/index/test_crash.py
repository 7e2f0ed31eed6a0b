"""SIGKILL at any moment: what was acknowledged is there and is found; the rest is there whole or not at all."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from index import crash_writer
from mplug_index import Database, Filter, HasId, QueryPart

SCRIPT = Path(crash_writer.__file__)


def write_and_kill(path: Path, name: str, lines: int, seconds: float) -> list[str]:
    """Lets a process write until it has said so many lines, and some seconds more; gives its whole lines."""
    command = [sys.executable, str(SCRIPT), str(path), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            said.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
    return [line.decode().strip() for line in said if line.endswith(b"\n")]


class Acknowledged:
    """What the processes said: ids that must be there, and ids that must not."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.deleted: set[str] = set()

    def take(self, lines: list[str]) -> None:
        for line in lines:
            sign, *ids = line.split()
            if sign == "+":
                self.present.update(ids)
            else:
                self.deleted.update(ids)
        self.present -= self.deleted

    def check(self, path: Path) -> None:
        with Database(path) as database:
            stored = self._scroll(database)
            self._check_missing(self.present - stored)
            assert not self.deleted & stored
            assert database.count("c") == len(stored)
            self._check_whole(stored)
            self._check_found(database, stored)

    def _check_missing(self, missing: set[str]) -> None:
        """A kill between a delete and its acknowledgement leaves it done or undone: one for each thread."""
        assert len(missing) <= crash_writer.THREADS
        for id in missing:
            _, number, place = id.split("-")
            assert int(number) % 2 == 1, id
            assert place == "1", id
        self.present -= missing
        self.deleted |= missing

    def _scroll(self, database: Database) -> set[str]:
        points, token = database.scroll("c", page_size=1_000_000)
        assert token == ""
        assert all(point.payload == {"id": point.id} for point in points)
        return {point.id for point in points}

    def _check_whole(self, stored: set[str]) -> None:
        """Of a batch of three, all are there, or none, or the two that stay when the middle one is deleted."""
        parts: Counter[str] = Counter(id.rpartition("-")[0] for id in stored)
        middles = {id.rpartition("-")[0] for id in stored if id.endswith("-1")}
        assert all(count == 3 or (count == 2 and batch not in middles) for batch, count in parts.items())

    def _check_found(self, database: Database, stored: set[str]) -> None:
        some = random.Random(0).sample(sorted(self.present), min(200, len(self.present)))
        for id in some:
            query = [QueryPart(crash_writer.vector_of(id))]
            assert database.query("c", query, top_k=1)[0].point.id == id
            assert database.query("c", query, filter=Filter(must=(HasId((id,)),)))[0].point.id == id
        everything = database.query("c", [QueryPart(crash_writer.vector_of("x"))], top_k=10**6)
        assert {hit.point.id for hit in everything} == stored


def crash(path: Path, rounds: int, longest: float) -> Acknowledged:
    acknowledged = Acknowledged()
    moments = random.Random(7)
    for number in range(rounds):
        lines = write_and_kill(path, f"r{number}", moments.randint(1, 30), moments.uniform(0, longest))
        acknowledged.take(lines)
        acknowledged.check(path)
    return acknowledged


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
    assert len(crash(tmp_path, rounds=2, longest=0.3).present) > 4


@pytest.mark.long
@pytest.mark.timeout(240)
def test_acknowledged_writes_survive_many_kills(tmp_path: Path) -> None:
    acknowledged = crash(tmp_path, rounds=15, longest=0.6)
    assert len(acknowledged.present) > 100
    assert acknowledged.deleted
