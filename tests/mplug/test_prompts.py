"""Prompts by name, and few-shot prompts within a budget."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mplug
from golden.mplug_cases import small_vocab
from mplug.errors import MplugError
from mplug.prompts import PROMPTS, SEPARATOR, few_shot, prompt, slots, written_length
from mplug.text.tokenizer import WordPieceTokenizer

EXPECTED: list[tuple[str, dict[str, Any], str]] = [
    ("poem", {"opening": "床前明月光，"}, "床前明月光，"),
    ("poem", {"title": "静夜思", "opening": "床前"}, "《静夜思》\n床前"),
    ("poem", {"tune": "浣溪沙", "title": "春情"}, "浣溪沙《春情》\n"),
    ("poem", {"tune": "浣溪沙"}, "浣溪沙\n"),
    ("couplet", {"first": "春风化雨"}, "上联：春风化雨\n下联："),
    ("continuation", {"text": "很久以前，"}, "很久以前，"),
    ("code", {"function": "快速排序"}, "用Python语言编写一个函数，实现快速排序\n"),
    ("code", {"function": "求和", "language": "C++"}, "用C++语言编写一个函数，实现求和\n"),
    ("qa", {"question": "天为什么是蓝的？"}, "问题：天为什么是蓝的？\n回答："),
    (
        "qa",
        {"question": "谁写的？", "context": "静夜思是李白写的。"},
        "静夜思是李白写的。\n问题：谁写的？\n回答：",
    ),
    ("recipe", {"dish": "番茄炒蛋"}, "请写出番茄炒蛋的做法\n"),
    ("summary", {"document": "长文。"}, "长文。"),
    ("summary", {"document": "长文。", "instructed": True}, "长文。\n请写出以上内容的摘要\n"),
    ("advert", {"keywords": ["垃圾桶", "双层"]}, "垃圾桶，双层"),
    (
        "advert",
        {"keywords": ["垃圾桶", "双层"], "instructed": True},
        "请根据关键词写一段商品文案：垃圾桶，双层\n",
    ),
]


@pytest.mark.parametrize(("name", "values", "expected"), EXPECTED)
def test_prompts(name: str, values: dict[str, Any], expected: str) -> None:
    assert prompt(name, **values) == mplug.prompt(name, **values) == expected
    assert PROMPTS[name](**values) == expected


def test_a_second_line_is_as_long_as_the_first() -> None:
    assert written_length("couplet", first="春风送暖，万里山河") == 9
    assert written_length("poem", opening="床前") is None


def test_every_prompt_and_slot_is_shown() -> None:
    shown = {(name, slot) for name, values, _ in EXPECTED for slot in values}
    assert shown == {(name, slot) for name in PROMPTS for slot in slots(name)}


def test_slots_that_must_be_given() -> None:
    assert slots("code") == {"function": True, "language": False}
    assert slots("poem") == {"opening": False, "title": False, "tune": False}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("essay", {}, r"prompt is 'essay'; known are poem, couplet"),
        ("code", {}, r"the prompt 'code' lacks function; its slots are function, language"),
        ("code", {"funktion": "x"}, r"does not know funktion, lacks function"),
        ("couplet", {"first": "x", "second": "y"}, r"the prompt 'couplet' does not know second"),
        ("poem", {}, r"give opening, title or tune"),
        ("advert", {"keywords": []}, r"keywords are \[\]; give a list"),
        ("advert", {"keywords": "垃圾桶"}, r"keywords are '垃圾桶'; give a list"),
    ],
)
def test_what_is_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(MplugError, match=message):
        prompt(name, **values)


EXAMPLES = [("今天真好", "正面"), ("太糟了", "负面")]


def test_examples_are_shown_in_their_order() -> None:
    assert few_shot(EXAMPLES, "还不错", instruction="判断情感。") == (
        "判断情感。\n\n输入：今天真好\n输出：正面\n\n输入：太糟了\n输出：负面\n\n输入：还不错\n输出："
    )
    assert few_shot([("a", "b")], "c", marks=("Q: ", "A: ")) == "Q: a\nA: b\n\nQ: c\nA: "
    assert few_shot([], "c") == mplug.few_shot([], "c") == "输入：c\n输出："


@given(
    st.lists(st.tuples(st.text("ab", max_size=9), st.text("cd", max_size=9)), max_size=8),
    st.integers(0, 150),
)
def test_as_many_of_the_last_examples_as_fit(examples: list[tuple[str, str]], spare: int) -> None:
    bare = few_shot([], "query")
    budget = len(bare) + spare
    found = few_shot(examples, "query", budget=budget, count=len)
    kept = found.count(SEPARATOR)
    assert len(found) <= budget
    assert found == few_shot(examples[len(examples) - kept :], "query")
    if kept < len(examples):
        assert len(few_shot(examples[len(examples) - kept - 1 :], "query")) > budget


def test_a_tokenizer_counts() -> None:
    tokenizer = WordPieceTokenizer(small_vocab(130), max_length=16)
    examples = [(f"piece{number}", f"piece{number + 40}") for number in range(3, 40)]

    def count(text: str) -> int:
        return len(tokenizer.pieces([text])[0].ids)

    found = few_shot(examples, "piece5", budget=100, count=count)
    assert 80 < count(found) <= 100, "far more than the 16 tokens that the tokenizer reads"


@pytest.mark.parametrize("options", [{"budget": 5}, {"count": len}])
def test_half_a_budget_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MplugError, match="budget and count go together"):
        few_shot(EXAMPLES, "x", **options)


def test_a_query_over_the_budget_is_refused() -> None:
    with pytest.raises(MplugError, match="the prompt has 10 tokens without any example, and budget is 9"):
        few_shot(EXAMPLES, "xxx", budget=9, count=len)
