from __future__ import annotations

import pytest

from mplug.score_fusion import Order
from mplug_services.client import ModelVersion, ScoreFusion, SearchHit, SearchResult, Timings
from mplug_services.evaluation.queries import JudgedQuery
from mplug_services.evaluation.search_quality import Observation, quality_rows, rankings

MODEL = ModelVersion("tiny", "abc")


def result(
    *hits: tuple[str, float, float | None], total: float = 0.0, reranked_count: int | None = None
) -> SearchResult:
    found = tuple(SearchHit(id, score, {}, match_probability=match) for id, score, match in hits)
    count = sum(match is not None for _, _, match in hits) if reranked_count is None else reranked_count
    return SearchResult(found, MODEL, Timings(total=total), reranked_count=count)


@pytest.mark.parametrize(
    ("fusion", "both"), [(ScoreFusion.SUM, "bacde"), (ScoreFusion.RECIPROCAL_RANK, "acbde")]
)
def test_three_orders_of_the_same_hits(fusion: ScoreFusion, both: str) -> None:
    # By cosine a b c, by match c b a; sums 1.1, 1.2, 0.9; a and c have the same two ranks, b has 2 and 2, which
    # is a little less. d and e were not reranked.
    hits = [("c", 0.3, 0.6), ("a", 0.9, 0.2), ("b", 0.7, 0.5), ("d", 0.2, None), ("e", 0.1, None)]
    orders = rankings(result(*hits), fusion)
    assert {order: "".join(ids) for order, ids in orders.items()} == {
        Order.ITC: "abcde",
        Order.ITM: "cbade",
        Order.BOTH: both,
    }
    assert rankings(result(*reversed(hits)), fusion) == orders


def test_a_row_of_each_count() -> None:
    queries = [JudgedQuery({"b": 1.0}, text="one"), JudgedQuery({"a": 1.0}, text="two")]
    plain = [
        Observation(result(("a", 0.9, None), ("b", 0.8, None), total=total), seconds)
        for seconds, total in ((0.010, 0.005), (0.020, 0.009))
    ]
    reranked = [
        Observation(result(("a", 0.9, 0.1), ("b", 0.8, 0.6), total=0.105), 0.110),
        Observation(result(("a", 0.9, 0.1), ("b", 0.8, None), total=0.309), 0.310),
    ]
    rows = quality_rows(queries, {8: reranked, 0: plain}, ScoreFusion.SUM)
    assert [row.rerank_top_k for row in rows] == [0, 8]
    for row in rows:
        assert row.orders[Order.ITC].recall.at_1 == 50
    assert rows[1].orders[Order.ITM].recall.at_1 == 100
    assert rows[1].orders[Order.BOTH].ndcg == 1
    assert list(rows[0].orders[Order.ITM].ndcg_Q) == pytest.approx([0.63093, 1], abs=1e-5)
    assert (rows[0].p50, rows[0].p95) == pytest.approx((0.015, 0.0195))
    # Of the same query: 0.1 and 0.3 seconds more.
    assert rows[1].rerank_p50 == pytest.approx(0.2)
    # Two hits were there to rerank; of the second query one was reached.
    assert [row.incomplete for row in rows] == [0, 1]


def test_what_was_not_answered_found_nothing_and_has_no_share_of_reranking() -> None:
    queries = [JudgedQuery({"a": 1.0}, text="one"), JudgedQuery({"a": 1.0}, text="two")]
    answer = Observation(result(("a", 0.9, None), total=0.01), 0.01)
    late = Observation(None, 0.5)
    rows = quality_rows(queries, {0: [answer, late], 8: [late, late]}, ScoreFusion.SUM)
    assert [row.orders[Order.ITC].ndcg for row in rows] == [0.5, 0]
    assert [row.rerank_p50 for row in rows] == [0, None]
    assert [row.incomplete for row in rows] == [1, 2]
