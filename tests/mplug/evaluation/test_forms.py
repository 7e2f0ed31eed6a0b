"""Forms of poems and couplets, as a reader would count them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.errors import MplugError
from mplug.evaluation.forms import (
    copied_line_rate,
    distinct_rate,
    form_of,
    form_rate,
    forms_by_tune,
    lines_of,
    metre_line_rate,
    metre_rate,
    score_couplets,
)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("风入藕花翻动。夜气与香俱纵。", (6, 6)),
        ("甲乙丙，丁戊、己。\n庚", (3, 2, 1, 1)),
        ("，。\n", ()),
        ("", ()),
        ("甲乙?丙!", (2, 1)),
    ],
)
def test_punctuation_and_line_breaks_part_lines(text: str, form: tuple[int, ...]) -> None:
    assert form_of(text) == form


@given(st.lists(st.text("甲乙丙丁", min_size=1), min_size=1), st.sampled_from("，。、\n"))
def test_lines_come_back_as_they_were_joined(lines: list[str], mark: str) -> None:
    assert lines_of(mark.join(lines) + mark) == lines


def poems(tune: str, *texts_and_counts: tuple[str, int]) -> list[tuple[str, str]]:
    return [(tune, text) for text, count in texts_and_counts for _ in range(count)]


def test_a_tune_has_its_commonest_form_and_those_that_are_not_rare() -> None:
    known = poems("甲", ("一二，三。", 17), ("一，二。", 2), ("一二三。", 1))
    assert forms_by_tune(known) == {"甲": {(2, 1), (1, 1)}}
    assert forms_by_tune(known, least_share=0.05) == {"甲": {(2, 1), (1, 1), (3,)}}
    assert forms_by_tune(known, least_share=0.9) == {"甲": {(2, 1)}}


def test_a_tune_of_few_poems_has_no_forms() -> None:
    assert forms_by_tune(poems("甲", ("一。", 4)) + poems("乙", ("一。", 5))) == {"乙": {(1,)}}


def test_poems_of_unknown_tunes_do_not_count() -> None:
    forms = {"甲": {(2, 1)}}
    written = [("甲", "一二，三。"), ("甲", "一二，三四。"), ("乙", "一二，三。")]
    assert form_rate(written, forms) == 50
    with pytest.raises(MplugError, match="poems of a known tune"):
        form_rate(written[2:], forms)


def test_a_metre_wants_every_line_and_two_at_least() -> None:
    texts = ["一二三四五，六七八九十。", "一二三四五。", "一二三四五，六。"]
    assert metre_rate(texts, 5) == pytest.approx(100 / 3)
    assert metre_line_rate(texts, 5) == pytest.approx(100 * 4 / 5)


@pytest.mark.parametrize(
    ("first", "second", "scores"),
    [
        ("风生天外", "雨落帘前", (100, 100, 100, 0)),
        ("风生天外", "雨落帘", (0, 100, 0, 0)),
        ("风生天外", "风生天外", (100, 0, 0, 100)),
        ("风生天外。", "风生天外", (100, 0, 0, 100)),
        ("风生，天外", "雨落帘，前", (0, 100, 0, 0)),
        ("风之声", "雨之色", (100, 100, 100, 100)),
    ],
)
def test_second_lines_are_as_long_and_new(first: str, second: str, scores: tuple[float, ...]) -> None:
    assert tuple(score_couplets([first], [second]).metrics().values()) == scores


def test_couplets_come_in_pairs() -> None:
    with pytest.raises(MplugError, match="1 first lines have 2 second ones"):
        score_couplets(["甲"], ["乙", "丙"])


def test_only_lines_of_some_length_can_be_copied() -> None:
    texts = ["一二三四五，六七八九十。一二。"]
    assert copied_line_rate(texts, {"一二三四五", "一二"}) == 50


def test_distinct_runs_stay_within_lines() -> None:
    assert distinct_rate(["一二，一二。"], 1) == 50
    assert distinct_rate(["一二，二一。"], 2) == 100
    with pytest.raises(MplugError, match="no runs of 3"):
        distinct_rate(["一二，二一。"], 3)
