"""SIGKILL while image tokens are written: what was kept is there, the rest is there whole or not at all.

Most kernels let a write end before they kill, so every other time the last record is cut, as a lost machine leaves it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mplug_services.stored_tokens import TokenStorage
from mplug_services.token_segments import TokenSegments
from services import token_writer
from services.token_samples import segment_files

SCRIPT = Path(token_writer.__file__)
ROOMY, TIGHT = 2**33, 2**25
"""Bytes: no segment ever leaves, or the oldest leave all the time."""


def write_and_kill(folder: Path, first: int, max_bytes: int, lines: int, seconds: float) -> list[int]:
    """Lets a process write until it has kept so many records, and some seconds more; gives what it kept."""
    command = [sys.executable, str(SCRIPT), str(folder), str(first), str(max_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            said.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
    return [int(line) for line in said if line.endswith(b"\n")]


def tear(folder: Path, moments: random.Random) -> None:
    """Cut the last record of the newest segment."""
    newest = [file for file in segment_files(folder) if file.stat().st_size][-1]
    smallest = len(token_writer.tokens_of(0).to_bytes())
    with newest.open("r+b") as stream:
        stream.truncate(newest.stat().st_size - moments.randint(1, smallest))


def check(folder: Path, first: int, kept: list[int], max_bytes: int) -> int:
    """What is found is what was written; one record more than was said may be there, or a part of it, which is not.

    Returns:
        How many segments have a torn end.
    """
    segments = TokenSegments(folder, TokenStorage.FP16, max_bytes)
    try:
        assert kept == list(range(first, first + len(kept)))
        there = [number for number in range(kept[-1] + 2) if token_writer.key_of(number) in segments]
        for number in there:
            found, written = segments.get(token_writer.key_of(number)), token_writer.tokens_of(number)
            assert found is not None, f"record {number} is indexed and torn"
            assert found.to_bytes() == written.to_bytes()
        oldest = 0 if max_bytes == ROOMY else there[0]
        assert set(range(max(oldest, first), kept[-1] + 1)) <= set(there), "a kept record is lost"
        assert segments.nbytes == sum(file.stat().st_size for file in segment_files(folder)) <= max_bytes
        return segments.damaged
    finally:
        segments.close()


def crash(folder: Path, max_bytes: int, rounds: int, longest: float) -> int:
    moments, first, torn = random.Random(3), 0, 0
    for number in range(rounds):
        kept = write_and_kill(folder, first, max_bytes, moments.randint(2, 10), moments.uniform(0, longest))
        if number % 2 == 0:
            tear(folder, moments)
            torn += 1
        damaged = check(folder, first, kept[:-1] if number % 2 == 0 else kept, max_bytes)
        assert damaged >= torn or max_bytes == TIGHT, "a torn segment was taken for whole"
        first = kept[-1] + 2  # the one that was on its way is left out: it may be there
    return first


@pytest.mark.parametrize("max_bytes", [ROOMY, TIGHT], ids=["roomy", "tight"])
def test_kept_tokens_survive_a_kill(tmp_path: Path, max_bytes: int) -> None:
    assert crash(tmp_path, max_bytes, rounds=3, longest=0.1) > 5


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("max_bytes", [ROOMY, TIGHT], ids=["roomy", "tight"])
def test_kept_tokens_survive_many_kills(tmp_path: Path, max_bytes: int) -> None:
    assert crash(tmp_path, max_bytes, rounds=12, longest=0.3) > 100
