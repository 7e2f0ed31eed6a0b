from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.score_fusion import ScoreFusion, fused_order

FUSIONS = list(ScoreFusion)
SCORES = st.floats(-1, 1, width=32)
HITS = st.lists(st.tuples(SCORES, st.none() | st.floats(0, 1, width=32)), max_size=12).map(
    lambda hits: sorted(hits, key=lambda hit: -hit[0])
)


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        # Matches say 2, 3, 1, 0.
        (ScoreFusion.MATCH, [2, 3, 1, 0]),
        # Sums: 1.0, 0.9, 0.95, 0.8.
        (ScoreFusion.SUM, [0, 2, 1, 3]),
        # Ranks by cosine 1 2 3 4, by match 4 3 1 2: 1/61 + 1/64, 1/62 + 1/63, 1/63 + 1/61, 1/64 + 1/62.
        (ScoreFusion.RECIPROCAL_RANK, [2, 0, 1, 3]),
    ],
)
def test_each_fusion_has_its_order(fusion: ScoreFusion, expected: list[int]) -> None:
    assert fused_order([0.9, 0.7, 0.15, 0.1], [0.1, 0.2, 0.8, 0.7], fusion) == expected


def test_hits_that_were_not_reranked_keep_their_places() -> None:
    order = fused_order([0.9, 0.8, 0.7, 0.6, 0.5], [0.1, None, 0.3, None, 0.9], ScoreFusion.MATCH)
    assert order == [4, 1, 2, 3, 0]


@given(hits=HITS, fusion=st.sampled_from(FUSIONS))
def test_an_order_is_a_permutation_that_leaves_the_others_where_they_are(
    hits: list[tuple[float, float | None]], fusion: ScoreFusion
) -> None:
    order = fused_order([hit[0] for hit in hits], [hit[1] for hit in hits], fusion)
    assert sorted(order) == list(range(len(hits)))
    for place, (_, match) in enumerate(hits):
        if match is None:
            assert order[place] == place


@given(hits=HITS, fusion=st.sampled_from(FUSIONS))
def test_no_hit_stands_before_one_that_is_better_by_both(
    hits: list[tuple[float, float | None]], fusion: ScoreFusion
) -> None:
    order = fused_order([hit[0] for hit in hits], [hit[1] for hit in hits], fusion)
    reranked = [hits[place] for place in order if hits[place][1] is not None]
    for place, (cosine, match) in enumerate(reranked):
        for later_cosine, later_match in reranked[place + 1 :]:
            assert match is not None
            assert later_match is not None
            assert not (later_cosine > cosine and later_match > match)


@given(cosines=st.lists(SCORES, max_size=8).map(lambda scores: sorted(scores, reverse=True)))
def test_equals_keep_the_order_of_the_cosine(cosines: list[float]) -> None:
    for fusion in FUSIONS:
        assert fused_order(cosines, [0.5] * len(cosines), fusion) == list(range(len(cosines)))
