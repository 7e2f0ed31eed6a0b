"""Writes to a database until it is killed, and says what was acknowledged. Run by test_crash.py.

It prints one line for each acknowledged write: the round, a thread's number, "+" or "-", and the ids.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np

from mplug_index import Database, Point
from mplug_index.types import FloatArray

DIMENSION = 8
THREADS = 3


def vector_of(id: str) -> FloatArray:
    """The vector that belongs to an id, and near to no other."""
    return np.random.default_rng(list(id.encode())).normal(size=DIMENSION).astype(np.float32)


def write(database: Database, name: str) -> None:
    """Upserts threes, and deletes the middle one of every other three."""
    number = 0
    while True:
        ids = [f"{name}-{number}-{each}" for each in range(3)]
        database.upsert("c", [Point(id, vector_of(id), {"id": id}) for id in ids], request_id=ids[0])
        say("+", ids)
        if number % 2:
            database.delete("c", ids=[ids[1]])
            say("-", [ids[1]])
        number += 1


def say(sign: str, ids: list[str]) -> None:
    """One write to the pipe, whole or not at all (it is shorter than PIPE_BUF)."""
    os.write(sys.stdout.fileno(), f"{sign} {' '.join(ids)}\n".encode())


def main() -> None:
    path, name = sys.argv[1:]
    database = Database(Path(path))
    if not database.list_collections():
        database.create_collection("c", DIMENSION)
    threads = [
        threading.Thread(target=write, args=(database, f"{name}.{number}")) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
