"""What searches found, and how good it is: for every number of reranked hits, in three orders.

Legend: Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug import score_fusion
from mplug.evaluation.recall import Recall
from mplug.score_fusion import Order
from mplug_services.client import ScoreFusion, SearchResult
from mplug_services.evaluation.queries import JudgedQuery
from mplug_services.evaluation.ranking_metrics import ndcg, ranking_recall


@dataclass(frozen=True, slots=True)
class Observation:
    """One search."""

    result: SearchResult | None
    """None: it was not answered in time, so that nothing was found."""
    seconds: float
    """From the call to its answer or its end, as the client sees it."""

    def is_complete(self, count: int) -> bool:
        """It was answered, and so many hits were reranked, or all that there were."""
        return self.result is not None and self.result.reranked_count >= min(count, len(self.result.hits))


@dataclass(frozen=True, slots=True, eq=False)
class OrderQuality:
    """How good an order is."""

    recall: Recall
    ndcg_Q: NDArray[np.float64]
    """nDCG@10 of each query."""

    @property
    def ndcg(self) -> float:
        """The mean."""
        return float(self.ndcg_Q.mean())


@dataclass(frozen=True, slots=True, eq=False)
class QualityRow:
    """What reranking so many hits gives, and what it costs."""

    rerank_top_k: int
    orders: Mapping[Order, OrderQuality]
    p50: float
    """Seconds."""
    p95: float
    rerank_p50: float | None
    """Seconds that the server needed beyond what it needed for the same query without reranking, the median of
    those that were answered; None where none was."""
    incomplete: int
    """Queries of which fewer hits were reranked than there were to be, or that were not answered."""


def rankings(result: SearchResult, fusion: ScoreFusion) -> dict[Order, list[str]]:
    """A search's ids in three orders, whatever order they came in.

    Args:
        result: all hits that were reranked, or more.
        fusion: what BOTH stands for.
    """
    # Stable: equal cosines stand as the server gave them.
    hits = sorted(result.hits, key=lambda hit: -hit.score)
    cosines = [hit.score for hit in hits]
    probabilities = [hit.match_probability for hit in hits]
    # The server's own rule, so that an order means here what it means there.
    itm, both = (
        score_fusion.fused_order(cosines, probabilities, score_fusion.ScoreFusion(str(rule)))
        for rule in (ScoreFusion.MATCH, fusion)
    )
    places = {Order.ITC: list(range(len(hits))), Order.ITM: itm, Order.BOTH: both}
    return {order: [hits[place].id for place in of_order] for order, of_order in places.items()}


def quality_rows(
    queries: Sequence[JudgedQuery],
    observations: Mapping[int, Sequence[Observation]],
    fusion: ScoreFusion,
) -> list[QualityRow]:
    """A row for each number of reranked hits, the smallest first.

    Args:
        queries: at least one.
        observations: by number of reranked hits, in the order of the queries; 0 is among them.
        fusion: what BOTH stands for.
    """
    base = observations[0]
    return [_row(queries, count, observations[count], base, fusion) for count in sorted(observations)]


def _row(
    queries: Sequence[JudgedQuery],
    count: int,
    observed: Sequence[Observation],
    base: Sequence[Observation],
    fusion: ScoreFusion,
) -> QualityRow:
    seconds = [each.seconds for each in observed]
    beyond = [
        one.result.timings.total - other.result.timings.total
        for one, other in zip(observed, base, strict=True)
        if one.result is not None and other.result is not None
    ]
    nothing: dict[Order, list[str]] = {order: [] for order in Order}
    found = [rankings(each.result, fusion) if each.result else nothing for each in observed]
    return QualityRow(
        rerank_top_k=count,
        orders={order: _quality(queries, [ranked[order] for ranked in found]) for order in Order},
        p50=float(np.percentile(seconds, 50)),
        p95=float(np.percentile(seconds, 95)),
        rerank_p50=float(np.median(beyond)) if beyond else None,
        incomplete=sum(not each.is_complete(count) for each in observed),
    )


def _quality(queries: Sequence[JudgedQuery], found: Sequence[Sequence[str]]) -> OrderQuality:
    grades = [query.grades for query in queries]
    ndcg_Q = np.array([ndcg(ranking, of_query) for ranking, of_query in zip(found, grades, strict=True)])
    return OrderQuality(ranking_recall(found, grades), ndcg_Q)
