"""What a row may hold, and how a bad one is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mplug.errors import MplugError
from mplug.train.readers import Answer, open_source

GOOD = {"image": "a.png", "captions": ["a"], "question": "what?", "answers": ["dog"]}


def write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("caption", {"captions": ["a"]}, "field 'image': missing.*'image' or 'file_name'.*row has captions"),
        ("caption", {"image": "a.png"}, "field 'captions': missing"),
        ("caption", {"image": "a.png", "captions": []}, "field 'captions': missing or empty"),
        ("caption", {"image": "a.png", "captions": ["a", 3]}, "field 'captions': 3 is no text"),
        ("caption", {"image": 3, "captions": ["a"]}, "field 'image': 3 is neither"),
        ("vqa", {**GOOD, "answers": []}, "field 'answers': missing"),
        ("vqa", {**GOOD, "question": ["what?"]}, "field 'question'.*one text"),
        ("vqa", {**GOOD, "weights": [1, 2]}, "field 'weights': 2 weights for 1 answers"),
        ("vqa", {**GOOD, "weights": [0]}, "field 'weights': 0 is no weight"),
        ("vqa", {**GOOD, "weights": ["much"]}, "field 'weights'.*above 0"),
        ("classify", {"image": "a.png", "label": True}, "field 'label': True is no text"),
        ("text", {"text": "x"}, "field 'target'.*'target' or 'summary'"),
        ("caption", "{not json", "line 2: not JSON"),
        ("caption", "[1]", "line 2: list is no row"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, task: str, row: Any, said: str) -> None:
    good: dict[str, Any] = {**GOOD, "label": 1, "text": "x", "target": "y"}
    source = open_source(write(tmp_path, good, row), task=task)
    source.read(0)
    with pytest.raises(MplugError, match=rf"rows\.jsonl, line 2.*{said}|rows\.jsonl, {said}"):
        list(source)
    with pytest.raises(MplugError, match="line 2"):
        source.read(1)


def test_what_a_task_does_not_need_cannot_be_wrong(tmp_path: Path) -> None:
    row = {"image": "a.png", "captions": ["a"], "answers": {"odd": 1}, "label": [1]}
    (example,) = open_source(write(tmp_path, row), task="caption")
    assert (example.answers, example.label) == ((), "")


def test_answers_weigh_what_share_of_people_gave_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {**GOOD, "answers": ["dog", "cat", "dog", "dog"]},
        {**GOOD, "answers": "pup", "weights": 0.5},
        {**GOOD, "answers": ["dog", "cat"], "weights": [0.7, 0.3]},
        {**GOOD, "answers": ["dog", "cat"], "weights": [0.75, 0.25]},
    ]
    people, one, tenths, others = open_source(write(tmp_path, *rows), task="vqa")
    assert people.answers == (Answer("dog", 0.75, votes=3), Answer("cat", 0.25, votes=1))
    assert one.answers == (Answer("pup", 0.5, votes=1),)
    assert tenths.answers == (Answer("dog", 0.7, votes=7), Answer("cat", 0.3, votes=3))
    assert others.answers == (Answer("dog", 0.75, votes=1), Answer("cat", 0.25, votes=1))


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "p", "text": "t"})
    (example,) = open_source(path, task="text", columns={"text": "prompt", "target": "text"})
    assert (example.text, example.target) == ("p", "t")
    with pytest.raises(MplugError, match="No field 'texts'"):
        open_source(path, columns={"texts": "prompt"})
    with pytest.raises(MplugError, match=r"No task 'captions'.*vqa"):
        open_source(path, task="captions")


def test_chinese_captions_stand_in_for_english_ones(tmp_path: Path) -> None:
    (example,) = open_source(write(tmp_path, {"image": "a.png", "captions_zh": "狗"}), task="caption")
    assert example.captions_zh == ("狗",)


def test_one_emoji_in_two_styles_is_one_identity(tmp_path: Path) -> None:
    rows = [
        {"image": f"images/emoji/{s}/1f436.png", "captions": ["x"], "emoji": "🐶"}
        for s in ("noto", "twemoji")
    ]
    first, second = open_source(write(tmp_path, *rows))
    assert first.identity == second.identity == "🐶"
    assert first.set_name == "emoji"


def test_texts_are_all_that_is_said(tmp_path: Path) -> None:
    (example,) = open_source(write(tmp_path, GOOD))
    assert example.texts() == ("a", "what?", "dog")
