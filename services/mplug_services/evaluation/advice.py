"""How many hits to rerank: the fewest that are about as good as the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mplug.score_fusion import Order
from mplug_services.evaluation.search_quality import OrderQuality, QualityRow

_ROUNDING = 1e-12
"""nDCGs that differ by less are the same, summed up otherwise."""


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one order's nDCG@10 is above another's."""

    mean: float
    standard_error: float
    """Of the mean, over queries, which both answered; 0 of a single query."""

    @property
    def is_clear(self) -> bool:
        """More than one standard error above."""
        return self.mean > self.standard_error + _ROUNDING


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A number of hits to rerank, and what then orders them."""

    row: QualityRow
    order: Order

    @property
    def quality(self) -> OrderQuality:
        """Of this order."""
        return self.row.orders[self.order]


@dataclass(frozen=True, slots=True, eq=False)
class Advice:
    """What to rerank, and why."""

    advised: Choice
    best: Choice
    """The highest nDCG@10 of what the budget allows."""
    gain: Difference
    """Of the advised against no reranking."""
    best_gain: Difference
    """Of the best against no reranking."""
    within_budget: bool
    """False: not even a search without reranking keeps it."""


def advise(rows: Sequence[QualityRow], budget: float | None = None) -> Advice:
    """The one-standard-error rule of Breiman et al. (Classification and Regression Trees, 1984), of pairs.

    Of the rows within the budget, the best has the highest mean nDCG@10 in its best order. Advised is the row
    with the fewest reranked hits whose best order is not clearly worse: by at most one standard error of the
    differences over the queries. Of equal orders ITC is before ITM, and ITM before both.

    Args:
        rows: the first is without reranking.
        budget: seconds that p95 may be; None: any.
    """
    plain = Choice(rows[0], Order.ITC)
    allowed = [row for row in rows if budget is None or row.p95 <= budget]
    choices = [_best_order(row) for row in allowed] or [plain]
    best = max(choices, key=lambda choice: choice.quality.ndcg)
    advised = next(choice for choice in choices if not difference(best, choice).is_clear)
    return Advice(advised, best, difference(advised, plain), difference(best, plain), bool(allowed))


def difference(one: Choice, other: Choice) -> Difference:
    """Of nDCG@10, query by query."""
    difference_Q = one.quality.ndcg_Q - other.quality.ndcg_Q
    count = len(difference_Q)
    error = float(difference_Q.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return Difference(float(difference_Q.mean()), error)


def _best_order(row: QualityRow) -> Choice:
    # ITC is the same in every row, and costs least in the first.
    orders = [Order.ITM, Order.BOTH] if row.rerank_top_k else [Order.ITC]
    return Choice(row, max(orders, key=lambda order: row.orders[order].ndcg))
