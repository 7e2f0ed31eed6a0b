from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_services.evaluation.ranking_metrics import ndcg, ranking_recall

IDS = [f"p{number}" for number in range(15)]
RANKINGS = st.permutations(IDS).flatmap(lambda ids: st.integers(0, len(ids)).map(lambda n: ids[:n]))
GRADES = st.dictionaries(st.sampled_from(IDS), st.floats(0.01, 100), min_size=1)


@pytest.mark.parametrize(
    ("ranking", "grades", "expected"),
    [
        (["a", "b"], {"a": 1.0}, 1.0),
        (["b", "a"], {"a": 1.0}, 1 / math.log2(3)),
        # 3 / log2(2) + 0 + 2 / log2(4) = 4, of 3 / log2(2) + 2 / log2(3) = 4.26186
        (["a", "x", "b"], {"a": 3.0, "b": 2.0}, 0.9385574),
        # (1 + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / 2): one of three was not found
        (["a", "x", "y", "b"], {"a": 1.0, "b": 1.0, "c": 1.0}, 0.6713860),
        (["x", "y"], {"a": 1.0}, 0.0),
        ([], {"a": 1.0}, 0.0),
        # The tenth place counts, the eleventh does not.
        ([*"123456789", "a"], {"a": 1.0}, 1 / math.log2(11)),
        ([*"1234567890", "a"], {"a": 1.0}, 0.0),
        # Twelve are relevant: ten of them are as good as it gets.
        (list("abcdefghij"), dict.fromkeys("abcdefghijkl", 1.0), 1.0),
    ],
)
def test_ndcg_by_hand(ranking: list[str], grades: dict[str, float], expected: float) -> None:
    assert ndcg(ranking, grades) == pytest.approx(expected, abs=1e-6)


@given(ranking=RANKINGS, grades=GRADES)
def test_ndcg_is_a_share(ranking: list[str], grades: dict[str, float]) -> None:
    assert 0 <= ndcg(ranking, grades) <= 1 + 1e-12


@given(grades=GRADES, rest=st.permutations(IDS))
def test_the_best_ranking_is_1_and_only_grades_make_it_so(grades: dict[str, float], rest: list[str]) -> None:
    best = sorted(rest, key=lambda id: -grades.get(id, 0))
    assert ndcg(best, grades) == pytest.approx(1)


@given(ranking=st.permutations(IDS), grades=GRADES, place=st.integers(0, 8))
def test_a_better_hit_further_up_is_never_worse(
    ranking: list[str], grades: dict[str, float], place: int
) -> None:
    one, other = ranking[place], ranking[place + 1]
    swapped = [*ranking[:place], other, one, *ranking[place + 2 :]]
    better = grades.get(other, 0) >= grades.get(one, 0)
    before, after = ndcg(ranking, grades), ndcg(swapped, grades)
    assert after >= before - 1e-12 if better else after <= before + 1e-12


@given(ranking=RANKINGS, grades=GRADES, factor=st.floats(0.1, 10))
def test_only_the_proportions_of_grades_count(
    ranking: list[str], grades: dict[str, float], factor: float
) -> None:
    scaled = {id: grade * factor for id, grade in grades.items()}
    assert ndcg(ranking, scaled) == pytest.approx(ndcg(ranking, grades))


def test_recall_by_hand() -> None:
    rankings = [
        ["a", "x"],  # at 1
        ["x", "y", "z", "v", "a", "b"],  # at 5
        ["x", "y", "z", "v", "w", "a"],  # at 10
        ["x", "y", "z"],  # nowhere, in a short answer
        [],
        [*"1234567890", "a"],  # too late
    ]
    recall = ranking_recall(rankings, [{"a": 1.0, "b": 2.0}] * 6)
    assert (recall.at_1, recall.at_5, recall.at_10) == pytest.approx((100 / 6, 200 / 6, 300 / 6))
    assert recall.num_queries == 6


@given(cases=st.lists(st.tuples(RANKINGS, GRADES), min_size=1, max_size=6))
def test_recall_counts_queries_with_a_relevant_hit(cases: list[tuple[list[str], dict[str, float]]]) -> None:
    recall = ranking_recall([ranking for ranking, _ in cases], [grades for _, grades in cases])
    for share, places in ((recall.at_1, 1), (recall.at_5, 5), (recall.at_10, 10)):
        found = sum(not grades.keys().isdisjoint(ranking[:places]) for ranking, grades in cases)
        assert share == pytest.approx(100 * found / len(cases))
