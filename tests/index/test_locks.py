from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mplug_index import Database
from mplug_index.errors import DatabaseLockedError, StorageError
from mplug_index.locks import DirectoryLock, ReadWriteLock

HOLDER = """
import sys
from mplug_index import Database
with Database(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_one_persons(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "lock")
    with pytest.raises(DatabaseLockedError, match=f"pid {os.getpid()}"):
        DirectoryLock(tmp_path / "lock")
    lock.release()
    lock.release()
    DirectoryLock(tmp_path / "lock").release()


def test_a_database_opens_once_in_a_process(tmp_path: Path) -> None:
    with Database(tmp_path), pytest.raises(DatabaseLockedError):
        Database(tmp_path)
    Database(tmp_path).close()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(DatabaseLockedError, match=f"pid {holder.pid}") as raised:
            Database(tmp_path)
        assert str(tmp_path) not in str(raised.value)
        holder.kill()
        holder.wait()
    Database(tmp_path).close()


def test_a_failed_opening_gives_the_lock_back(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no database at all, but long enough to be read as one" * 99)
    for _ in range(2):
        with pytest.raises(StorageError) as raised:
            Database(tmp_path)
        assert not isinstance(raised.value, DatabaseLockedError)


def test_readers_share_and_a_writer_is_alone() -> None:
    lock = ReadWriteLock()
    both_read = threading.Barrier(3)
    may_end = threading.Event()
    wrote = threading.Event()

    def read() -> None:
        with lock.read():
            both_read.wait()
            may_end.wait()

    def write() -> None:
        with lock.write():
            wrote.set()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    both_read.wait()
    writer = threading.Thread(target=write)
    writer.start()
    assert not wrote.wait(0.05)
    may_end.set()
    assert wrote.wait(10)
    for thread in (*readers, writer):
        thread.join()


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock = ReadWriteLock()
    order: list[str] = []
    with lock.read():
        writer = threading.Thread(target=lambda: _note(lock.write, order, "writer"))
        writer.start()
        while lock._writers_waiting == 0:
            threading.Event().wait(0.001)
        reader = threading.Thread(target=lambda: _note(lock.read, order, "reader"))
        reader.start()
    writer.join()
    reader.join()
    assert order == ["writer", "reader"]


def _note(hold: Callable[[], AbstractContextManager[None]], order: list[str], name: str) -> None:
    with hold():
        order.append(name)


def test_many_readers_and_writers_never_meet() -> None:
    lock = ReadWriteLock()
    inside = {"readers": 0, "writers": 0}
    guard = threading.Lock()
    broken: list[dict[str, int]] = []

    def work(kind: str) -> None:
        for _ in range(200):
            with lock.read() if kind == "readers" else lock.write():
                with guard:
                    inside[kind] += 1
                    if inside["writers"] and inside["readers"] + inside["writers"] > 1:
                        broken.append(dict(inside))
                with guard:
                    inside[kind] -= 1

    threads = [threading.Thread(target=work, args=(kind,)) for kind in ("readers", "writers") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert inside == {"readers": 0, "writers": 0}
