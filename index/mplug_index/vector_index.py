"""The in-memory vector index behind one small interface; `FlatIndex` is its exact kind, on FAISS.

Legend: D is the dimension, M the vectors of a call. A vector's name here is the sequence number of its row,
which is never used twice: a replaced point is a new row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np

from mplug_index.types import FloatArray, IntArray

# Any: its Python wrapper takes keyword arguments that type checkers do not see.
_SearchParameters: Any = faiss.SearchParameters

_MAX_DEAD = 256
"""Removed vectors that stay in FAISS, and out of every result, until they are taken out together."""
_FEW = 1024
"""So few allowed vectors, or one in `_SELECTIVE` of all, are scored by themselves, not picked in a scan."""
_SELECTIVE = 20


@dataclass(frozen=True, slots=True)
class Hits:
    """Results of a search, best first."""

    sequences: IntArray
    scores: FloatArray


class VectorIndex(Protocol):
    """What a database needs of an index. Searches run side by side; writes need the index alone."""

    def __len__(self) -> int:
        """Vectors that can be found."""
        ...

    def add(self, sequences: IntArray, vectors: FloatArray) -> None:
        """Adds vectors, float32 (M, D), under new sequence numbers, int64 (M,)."""
        ...

    def remove(self, sequences: IntArray) -> None:
        """Takes vectors out; no later search finds them."""
        ...

    def search(
        self, query: FloatArray, k: int, *, allowed: IntArray | None = None, excluded: Collection[int] = ()
    ) -> Hits:
        """The k vectors of the greatest inner product with `query`; fewer where there are fewer.

        Args:
            query: float32 (D,).
            k: At least 1.
            allowed: Only these are results; None: all are. They must be in the index.
            excluded: These are no results.
        """
        ...


class FlatIndex:
    """Exact inner-product search: a FAISS `IndexIDMap2` over `IndexFlatIP`.

    Every path scores with the same FAISS kernel, so that equal vectors have equal scores to the bit, filtered
    or not.
    """

    def __init__(self, dimension: int) -> None:
        # Any: faiss has no types.
        self._faiss: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        # FAISS moves every later vector when one is removed; doing it for many at once costs the same.
        self._dead: set[int] = set()

    def __len__(self) -> int:
        return int(self._faiss.ntotal) - len(self._dead)

    def add(self, sequences: IntArray, vectors: FloatArray) -> None:
        """See `VectorIndex.add`."""
        if len(sequences):
            self._faiss.add_with_ids(np.ascontiguousarray(vectors), sequences)

    def remove(self, sequences: IntArray) -> None:
        """See `VectorIndex.remove`."""
        self._dead.update(sequences.tolist())
        if len(self._dead) > _MAX_DEAD:
            dead = np.fromiter(self._dead, dtype=np.int64)
            removed = self._faiss.remove_ids(dead)
            assert removed == len(dead), "what is removed was in the index"
            self._dead.clear()

    def search(
        self, query: FloatArray, k: int, *, allowed: IntArray | None = None, excluded: Collection[int] = ()
    ) -> Hits:
        """See `VectorIndex.search`."""
        if allowed is None:
            hidden = self._dead.union(excluded)
            hits = self._scan(query, k + len(hidden), None)
        else:
            hidden = set(excluded)
            hits = self._search_allowed(query, k + len(hidden), allowed)
        if hidden:
            keep = ~np.isin(hits.sequences, np.fromiter(hidden, dtype=np.int64))
            hits = Hits(hits.sequences[keep], hits.scores[keep])
        return Hits(hits.sequences[:k], hits.scores[:k])

    def _search_allowed(self, query: FloatArray, k: int, allowed: IntArray) -> Hits:
        if len(allowed) <= max(_FEW, int(self._faiss.ntotal) // _SELECTIVE):
            return self._score_these(query, k, allowed)
        selector = _SearchParameters(sel=faiss.IDSelectorBatch(allowed))
        hits = self._scan(query, min(k, len(allowed)), selector)
        # FAISS ignores a selector silently in places (faiss#5504, #5584); then the slow way is the right one.
        if not np.isin(hits.sequences, allowed).all():
            return self._score_these(query, k, allowed)
        return hits

    def _scan(self, query: FloatArray, k: int, parameters: Any) -> Hits:
        k = min(k, int(self._faiss.ntotal))
        if k == 0:
            return _no_hits()
        scores, sequences = self._faiss.search(query[np.newaxis], k, params=parameters)
        found = sequences[0] >= 0
        return Hits(sequences[0][found], scores[0][found])

    def _score_these(self, query: FloatArray, k: int, allowed: IntArray) -> Hits:
        if len(allowed) == 0:
            return _no_hits()
        few: Any = faiss.IndexFlatIP(len(query))
        few.add(self._faiss.reconstruct_batch(allowed))
        scores, places = few.search(query[np.newaxis], min(k, len(allowed)))
        return Hits(allowed[places[0]], scores[0])


def _no_hits() -> Hits:
    return Hits(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
