"""The small writers that ship: their size, what they say of themselves, and the form of what they write."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import mplug
from mplug import prompts
from mplug.evaluation.forms import form_of, score_couplets
from mplug.loading import WEIGHTS_FOLDER, shipped_models
from mplug.text_writing import write

WRITERS = ("gpt3-poem-mini", "palm-mini")
FIRST_LINES = (
    *(
        "春到江南花似锦",
        "一窗明月书声远",
        "千里江山入画图",
        "小桥流水人家静",
        "夜雨初收天色好",
        "白云深处有人家",
    ),
    *("山中无历日", "月下闻笛声", "清风来万里", "细雨湿衣裳", "松间一壶酒", "雁去秋天远"),
    *(
        "春风送暖，万里山河添秀色",
        "瑞雪迎新，千家灯火庆丰年",
        "书山有路，勤学苦练无止境",
        "明月清风，小楼独坐听松涛",
    ),
    *("月白", "听雨轩", "花好月圆", "登高望远天地阔"),
)
"""Written for this test."""
ABSTRACT = (
    "针对小型设备上图像检索速度慢的问题,提出一种基于向量量化的图像检索方法.该方法将图像编码为低维向量,用整数量化压缩索引."
    "实验结果表明,该方法在保持检索精度的同时,减少了内存占用和检索时间."
)


# Any: both families write, and have a tokenizer and parameters.
@cache
def load(name: str) -> Any:
    return mplug.load(name, task="text-generation")


@pytest.mark.parametrize("name", WRITERS)
def test_they_fit_in_4_mebibytes(name: str) -> None:
    assert name in shipped_models()
    files = [file for file in (WEIGHTS_FOLDER / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4 * 2**20


@pytest.mark.parametrize("name", WRITERS)
def test_they_say_what_they_are(name: str) -> None:
    model = load(name)
    assert model.name == name
    assert "esearch use" in model.licence


def test_second_lines_are_as_long_as_first_ones_and_no_copies() -> None:
    texts = []
    for first in FIRST_LINES:
        length = prompts.written_length("couplet", first=first)
        ((best, *_),) = write(
            load("palm-mini"), [prompts.couplet(first)], min_length=length, max_length=length
        )
        texts.append(best.text)
    assert score_couplets(FIRST_LINES, texts).good >= 95


@pytest.mark.parametrize(("tune", "form"), [("浣溪沙", (7,) * 6), ("菩萨蛮", (7, 7, 5, 5, 5, 5, 5, 5))])
def test_poems_have_the_form_of_their_tune(tune: str, form: tuple[int, ...]) -> None:
    drawn = write(
        load("gpt3-poem-mini"),
        [prompts.poem(tune=tune)] * 20,
        method="sample",
        seeds=[*range(20)],
        max_length=120,
    )
    texts = [written[0].text for written in drawn]
    assert len(set(texts)) == 20
    assert sum(form_of(text) == form for text in texts) >= 8


def test_a_title_is_short_and_ends() -> None:
    ((title, *_),) = write(load("palm-mini"), [prompts.summary(ABSTRACT)])
    assert 4 <= len(title.text) <= 40
    assert title.finish_reason == "end"


def test_a_pipeline_without_a_model_has_the_one_that_ships() -> None:
    with mplug.pipeline("text-generation") as writer:
        found = writer(prompts.poem(tune="如梦令"), method="greedy", max_length=80)
    assert "，" in found["text"]
    with pytest.raises(mplug.MplugError, match="no model ships for fill-mask; give model=FOLDER"):
        mplug.pipeline("fill-mask")
