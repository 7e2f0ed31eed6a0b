from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.evaluation.recall import Recall
from mplug.score_fusion import Order
from mplug_services.evaluation.advice import Choice, advise, difference
from mplug_services.evaluation.search_quality import OrderQuality, QualityRow

NO_RECALL = Recall(0.0, 0.0, 0.0, 4)


def row(
    count: int, itm: list[float], both: list[float] | None = None, *, itc: list[float], p95: float = 0.01
) -> QualityRow:
    by_order = {Order.ITC: itc, Order.ITM: itm, Order.BOTH: itm if both is None else both}
    orders = {order: OrderQuality(NO_RECALL, np.array(ndcgs)) for order, ndcgs in by_order.items()}
    return QualityRow(count, orders, p50=p95 / 2, p95=p95, rerank_p50=0.0, incomplete=0)


PLAIN = [0.5, 0.4, 0.6, 0.5]
GOOD = [0.8, 0.7, 0.9, 0.8]  # everywhere 0.3 more
BETTER = [0.9, 0.7, 0.9, 0.9]  # 0.05 more than GOOD, with a standard error of 0.0289


def rows(*of_counts: QualityRow, p95: float = 0.01) -> list[QualityRow]:
    return [row(0, PLAIN, itc=PLAIN, p95=p95), *of_counts]


@pytest.mark.parametrize(
    ("measured", "advised", "best"),
    [
        # Clearly better, at once.
        (rows(row(8, GOOD, itc=PLAIN)), (8, Order.ITM), (8, Order.ITM)),
        # More hits gain nothing more.
        (rows(row(8, GOOD, itc=PLAIN), row(16, GOOD, itc=PLAIN)), (8, Order.ITM), (8, Order.ITM)),
        # More hits gain more than a standard error.
        (rows(row(8, GOOD, itc=PLAIN), row(16, BETTER, itc=PLAIN)), (16, Order.ITM), (16, Order.ITM)),
        # They gain less: 0.025, with a standard error of 0.025.
        (
            rows(row(8, GOOD, itc=PLAIN), row(16, [0.9, 0.7, 0.9, 0.8], itc=PLAIN)),
            (8, Order.ITM),
            (16, Order.ITM),
        ),
        # Both together are better than the match probability.
        (rows(row(8, PLAIN, GOOD, itc=PLAIN)), (8, Order.BOTH), (8, Order.BOTH)),
        # Reranking makes it worse.
        (rows(row(8, [0.1] * 4, itc=PLAIN)), (0, Order.ITC), (0, Order.ITC)),
        # Reranking changes nothing.
        (rows(row(8, PLAIN, itc=PLAIN)), (0, Order.ITC), (0, Order.ITC)),
        # It is better on one query of four: no more than noise.
        (rows(row(8, [0.9, 0.4, 0.6, 0.5], itc=PLAIN)), (0, Order.ITC), (8, Order.ITM)),
        # The middle is worse than both its neighbours.
        (
            rows(row(8, GOOD, itc=PLAIN), row(16, PLAIN, itc=PLAIN), row(32, BETTER, itc=PLAIN)),
            (32, Order.ITM),
            (32, Order.ITM),
        ),
    ],
)
def test_the_fewest_hits_that_are_about_as_good_as_the_best(
    measured: list[QualityRow], advised: tuple[int, Order], best: tuple[int, Order]
) -> None:
    advice = advise(measured)
    assert (advice.advised.row.rerank_top_k, advice.advised.order) == advised
    assert (advice.best.row.rerank_top_k, advice.best.order) == best
    assert advice.within_budget


def test_what_is_over_the_budget_is_neither_advised_nor_what_others_are_held_against() -> None:
    measured = rows(row(8, GOOD, itc=PLAIN, p95=0.05), row(16, BETTER, itc=PLAIN, p95=0.1), p95=0.02)
    assert advise(measured, 0.1).advised.row.rerank_top_k == 16
    advice = advise(measured, 0.05)
    assert (advice.advised.row.rerank_top_k, advice.best.row.rerank_top_k) == (8, 8)
    advice = advise(measured, 0.049)
    assert (advice.advised.row.rerank_top_k, advice.within_budget) == (0, True)
    advice = advise(measured, 0.01)
    assert (advice.advised.row.rerank_top_k, advice.within_budget) == (0, False)


def test_differences_are_of_pairs() -> None:
    measured = rows(row(8, GOOD, itc=PLAIN), row(16, BETTER, itc=PLAIN))
    good, better = (Choice(each, Order.ITM) for each in measured[1:])
    gain = difference(better, good)
    assert (gain.mean, gain.standard_error) == pytest.approx((0.05, 0.1 / np.sqrt(3) / 2))
    # GOOD is as much better on each query: whatever queries differ by is no error of the difference.
    gain = difference(good, Choice(measured[0], Order.ITC))
    assert (gain.mean, gain.standard_error) == pytest.approx((0.3, 0.0), abs=1e-12)


def test_a_single_query_has_no_error_to_hide_in() -> None:
    measured = [row(0, [0.5], itc=[0.5]), row(8, [0.6], itc=[0.5])]
    advice = advise(measured)
    assert advice.advised.row.rerank_top_k == 8
    assert advice.gain.standard_error == 0


NDCGS = st.lists(st.floats(0, 1), min_size=5, max_size=5)


@given(itc=NDCGS, found=st.lists(st.tuples(NDCGS, NDCGS), max_size=5))
def test_advice_is_within_a_standard_error_of_the_best_and_nothing_smaller_is(
    itc: list[float], found: list[tuple[list[float], list[float]]]
) -> None:
    measured = [row(0, itc, itc=itc), *(row(8 << n, *each, itc=itc) for n, each in enumerate(found))]
    advice = advise(measured)
    means = [np.mean(itc), *(np.mean(ndcgs) for each in found for ndcgs in each)]
    assert advice.best.quality.ndcg == pytest.approx(max(means))
    assert not difference(advice.best, advice.advised).is_clear
    for each in measured:
        if each.rerank_top_k < advice.advised.row.rerank_top_k:
            orders = [Order.ITM, Order.BOTH] if each.rerank_top_k else [Order.ITC]
            best_order = max(orders, key=lambda order: each.orders[order].ndcg)
            assert difference(advice.best, Choice(each, best_order)).is_clear
