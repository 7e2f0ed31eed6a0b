"""Searching for every query, with every number of reranked hits, and timing it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mplug_services.client import Client, DeadlineExceededError, ScoreFusion
from mplug_services.evaluation.queries import JudgedQuery
from mplug_services.evaluation.ranking_metrics import DEPTH
from mplug_services.evaluation.search_quality import Observation


@dataclass(frozen=True, slots=True)
class Searches:
    """Where to search, and how."""

    client: Client
    collection: str
    fusion: ScoreFusion
    """What the server orders reranked hits by."""

    def observe(self, query: JudgedQuery, count: int) -> Observation:
        """Searches and times it; all hits that are reranked come back.

        Raises:
            ClientError: The search failed, otherwise than by its timeout.
        """
        started = time.perf_counter()
        try:
            result = self.client.search(
                self.collection,
                text=query.text,
                image=query.image,
                top_k=max(DEPTH, count),
                rerank_top_k=count,
                score_fusion=self.fusion,
            )
        except DeadlineExceededError:
            result = None
        return Observation(result, time.perf_counter() - started)


def search_rounds(
    searches: Searches,
    queries: Sequence[JudgedQuery],
    counts: Sequence[int],
    *,
    on_search: Callable[[], None],
) -> dict[int, list[Observation]]:
    """Searches, one call after the other.

    Each query is first searched once, uncounted, with the most hits to rerank: the calls that count then find the
    pictures' tokens in the server's cache, as later searches do, and none pays for another. All counts follow for
    this query before the next, and each query begins with another count: what else the machine does falls on all
    of them alike.

    Args:
        searches: where and how.
        queries: what for.
        counts: of hits to rerank, each once.
        on_search: called after each search, `(len(counts) + 1) * len(queries)` times.

    Returns:
        By count, in the order of the queries.

    Raises:
        ClientError: A search failed, otherwise than by its timeout.
    """
    observations: dict[int, list[Observation]] = {count: [] for count in counts}
    for number, query in enumerate(queries):
        first = number % len(counts)
        searches.observe(query, max(counts))
        on_search()
        for count in (*counts[first:], *counts[:first]):
            observations[count].append(searches.observe(query, count))
            on_search()
    return observations
