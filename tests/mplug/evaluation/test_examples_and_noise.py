from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.evaluation.examples import Group, choose_examples
from mplug.evaluation.noise import changed_share, noise_pixels


def test_best_middle_and_worst_of_many() -> None:
    chosen = choose_examples({f"p{number}": float(number) for number in range(41)})
    assert [each.id for each in chosen] == [
        *(f"p{number}" for number in range(40, 33, -1)),
        *(f"p{number}" for number in range(23, 17, -1)),
        *(f"p{number}" for number in range(6, -1, -1)),
    ]
    assert [each.group for each in chosen] == [Group.BEST] * 7 + [Group.MEDIAN] * 6 + [Group.WORST] * 7
    assert chosen[7].score == 23


@given(st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=60))
def test_nobody_is_shown_twice_and_the_order_of_the_file_does_not_matter(
    scores: dict[str, float],
) -> None:
    chosen = choose_examples(scores)
    assert len({each.id for each in chosen}) == len(chosen) == min(20, len(scores))
    shown = [each.score for each in chosen]
    assert shown == sorted(shown, reverse=True)
    assert choose_examples(dict(reversed(scores.items()))) == chosen


def test_equals_are_not_taken_from_the_top_of_the_file() -> None:
    chosen = choose_examples({str(number): 1.0 for number in range(200)})
    best = [int(each.id) for each in chosen if each.group is Group.BEST]
    assert max(best) > 20
    assert Counter(each.group for each in chosen) == {Group.BEST: 7, Group.MEDIAN: 6, Group.WORST: 7}


def test_noise_is_noise_and_the_same_for_the_same_seed() -> None:
    one = noise_pixels((3, 64, 64), seed=1)
    assert one.shape == (3, 64, 64)
    assert one.dtype == np.uint8
    assert one.mean() == pytest.approx(127.5, abs=3)
    assert (one == noise_pixels((3, 64, 64), seed=1)).all()
    assert (one != noise_pixels((3, 64, 64), seed=2)).any()


def test_the_share_of_changed_texts() -> None:
    assert changed_share(["a dog", "two", "x", "y"], ["A  dog", "three", "x", "z"]) == 50
    with pytest.raises(ValueError, match="no texts"):
        changed_share([], [])
    with pytest.raises(ValueError, match="zip"):
        changed_share(["a"], [])
