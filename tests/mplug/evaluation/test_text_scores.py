from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.errors import MplugError
from mplug.evaluation.text_scores import perplexity, score_texts

chinese = st.text(alphabet="春眠不觉晓处闻啼鸟夜来风雨声", min_size=4, max_size=12)


def test_chinese_by_hand() -> None:
    scores = score_texts(["今天天气好", "春天"], [["今天天气很好"], ["夏日"]], "zh")
    # Of 5 and 6 characters 5 agree, of 4 and 5 pairs 3; the second text has nothing in common.
    assert scores.rouge_1 == pytest.approx(100 * (10 / 11) / 2)
    assert scores.rouge_2 == pytest.approx(100 * (6 / 9) / 2)
    assert scores.rouge_l == pytest.approx(100 * (10 / 11) / 2)
    # 5 of 7 characters are right; 7 are shorter than the references' 8.
    assert scores.bleu_1 == pytest.approx(100 * (5 / 7) * math.exp(1 - 8 / 7))
    # 3 of 5 pairs, 2 of 3 triples, 1 of 2 fours.
    precision = (5 / 7 * 3 / 5 * 2 / 3 * 1 / 2) ** 0.25
    assert scores.bleu_4 == pytest.approx(100 * precision * math.exp(1 - 8 / 7))


def test_english_by_hand() -> None:
    scores = score_texts(["the dog ran home"], [["The dogs run home."]])
    # Stems: the dog ran home, the dog run home.
    assert scores.rouge_1 == pytest.approx(100 * 3 / 4)
    assert scores.rouge_2 == pytest.approx(100 * 1 / 3)
    assert scores.rouge_l == pytest.approx(100 * 3 / 4)
    assert scores.bleu_1 == pytest.approx(100 * 1 / 4 * math.exp(1 - 5 / 4))


def test_chinese_rouge_leaves_punctuation_and_keeps_latin_words() -> None:
    scores = score_texts(["买GPT-3，好。"], [["买 gpt 3 好"]], "zh")
    assert (scores.rouge_1, scores.rouge_2, scores.rouge_l) == (100, 100, 100)


def test_the_best_reference_counts_and_texts_may_have_several() -> None:
    alone = score_texts(["春眠不觉晓"], [["春眠不觉晓"]], "zh")
    several = score_texts(["春眠不觉晓"], [["处处闻啼鸟", "春眠不觉晓"]], "zh")
    assert several == alone
    assert alone.metrics() == dict.fromkeys(
        ("rouge_1", "rouge_2", "rouge_l", "bleu_1", "bleu_4"), pytest.approx(100)
    )
    uneven = score_texts(["春眠不觉晓", "夜来风雨声"], [["处处闻啼鸟", "春眠不觉晓"], ["夜来风雨声"]], "zh")
    assert uneven.bleu_4 == pytest.approx(100)


@given(st.lists(st.tuples(chinese, chinese), min_size=1, max_size=4))
def test_scores_lie_between_nothing_and_the_reference(pairs: list[tuple[str, str]]) -> None:
    texts, wanted = [list(each) for each in zip(*pairs, strict=True)]
    scores = score_texts(texts, [[each] for each in wanted], "zh").metrics()
    assert all(0 <= value <= 100 + 1e-9 for value in scores.values())
    assert scores["rouge_2"] <= scores["rouge_1"] + 1e-9
    perfect = score_texts(wanted, [[each] for each in wanted], "zh").metrics()
    assert perfect == pytest.approx(dict.fromkeys(perfect, 100.0))


def test_an_empty_text_is_worth_nothing() -> None:
    scores = score_texts([""], [["春眠不觉晓"]], "zh")
    assert set(scores.metrics().values()) == {0}


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "no texts"),
        (["a"], [], "1 texts have 0"),
        (["a"], [[]], r"references\[0\]"),
        (["a"], ["text"], r"references\[0\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(candidates: list[str], references: Any, message: str) -> None:
    with pytest.raises(MplugError, match=message):
        score_texts(candidates, references)


@pytest.mark.parametrize("library", ["rouge_score", "sacrebleu"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = [name for name in sys.modules if name.split(".")[0] == library]
    for name in (library, *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MplugError, match=r"mplug-serve\[train\]"):
        score_texts(["a"], [["a"]])


def test_perplexity_of_equal_chances() -> None:
    assert perplexity([[math.log(0.25)] * 3, [math.log(0.25)]]) == pytest.approx(4)
    assert perplexity([[0.0], []]) == 1


@given(st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=5), min_size=1, max_size=5))
def test_perplexity_is_of_all_tokens_together(texts: list[list[float]]) -> None:
    flat = [value for text in texts for value in text]
    assert perplexity(texts) == pytest.approx(perplexity([flat]))
    assert perplexity(texts) >= 1


def test_what_cannot_happen_is_infinitely_surprising() -> None:
    assert perplexity([[-1.0, -math.inf]]) == math.inf


@pytest.mark.parametrize(("texts", "message"), [([], "no tokens"), ([[]], "no tokens"), ([[0.5]], "0.5")])
def test_what_has_no_perplexity_is_refused(texts: list[list[float]], message: str) -> None:
    with pytest.raises(MplugError, match=message):
        perplexity(texts)
