"""A query of the index against FAISS alone: what durability, ids, payload and filters cost."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np

from benchmarks.page import table
from benchmarks.rounds import interleave
from mplug_index import Database, Filter, Match, Point, QueryPart
from mplug_index.types import FloatArray

NUM_POINTS = 50_000
DIMENSION = 256
NUM_QUERIES = 40
TOP_K = 10
BATCH = 1000


def measure() -> str:
    """The section's text."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((NUM_POINTS, DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:NUM_QUERIES] + 0.1 * chance.standard_normal((NUM_QUERIES, DIMENSION), dtype=np.float32)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    red = Filter(must=(Match("colour", ("red",)),))
    with tempfile.TemporaryDirectory() as folder, Database(Path(folder) / "index.sqlite") as database:
        _fill(database, vectors)
        timings = interleave(
            {
                "FAISS": lambda: [flat.search(query[None], TOP_K) for query in queries],
                "no filter": lambda: _query(database, queries, None),
                "a filter that a tenth satisfies": lambda: _query(database, queries, red),
            }
        )
    rows = [(name, str(timings.speedup("FAISS", name))) for name in list(timings.seconds)[1:]]
    return (
        f"{NUM_POINTS:,} vectors of {DIMENSION}, {NUM_QUERIES} queries one by one, top {TOP_K}, with payload. Time of "
        "a query ÷ of FAISS's bare `IndexFlatIP.search`: ratio of minima (of medians) of 15 interleaved rounds.\n\n"
        + table(("query", "time ÷ bare FAISS"), rows)
    )


def _fill(database: Database, vectors: FloatArray) -> None:
    database.create_collection("bench", DIMENSION)
    taken = datetime(2026, 1, 1, tzinfo=UTC)
    for start in range(0, NUM_POINTS, BATCH):
        points = [
            Point(
                f"{row}",
                vectors[row],
                {"colour": "red" if row % 10 == 0 else "blue", "taken": taken, "row": row},
            )
            for row in range(start, start + BATCH)
        ]
        database.upsert("bench", points)


def _query(database: Database, queries: FloatArray, filter: Filter | None) -> None:
    for query in queries:
        found = database.query("bench", [QueryPart(vector=query)], top_k=TOP_K, filter=filter)
        assert len(found) == TOP_K
