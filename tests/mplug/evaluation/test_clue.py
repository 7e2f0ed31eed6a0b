from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from golden.structbert_cases import tiny, tiny_config
from mplug.errors import MplugError
from mplug.evaluation.clue import CLUE_TASKS, ClueScore, evaluate_clue, read_clue, write_submission
from mplug.structbert import Classifier
from mplug.text.pairs import Text
from mplug.text_classifier import Classified, LabelScore

NEWS = {"label": "104", "label_desc": "news_finance", "sentence": "股市上涨", "keywords": "股市"}
PAIR = {"sentence1": "花呗怎么还款", "sentence2": "花呗还款方式", "label": "1"}
ENTAILED = {
    "sentence1": "小明在北京",
    "sentence2": "小明在中国",
    "label": "entailment",
    "level": "easy",
    "id": 7,
}
UNSURE = {**ENTAILED, "label": "-", "id": 8}
NOUN = {
    "target": {"span1_text": "小明", "span1_index": 2, "span2_text": "他", "span2_index": 7},
    "text": "因为小明生病，他没来",
    "label": "true",
    "idx": 0,
}
ABSTRACT = {"id": 3, "abst": "本文研究图像。", "keyword": ["图像", "学习"], "label": "0"}


class Longest:
    """Says `long` of texts, or of first texts, with more than four characters; a real classifier, if a poor one."""

    name = "longest"

    def __init__(self, labels: tuple[str, str] = ("long", "short")) -> None:
        self.labels = labels
        self.calls: list[int] = []

    def classify(self, texts: Sequence[Text]) -> list[Classified]:
        self.calls.append(len(texts))
        long, short = self.labels
        first = [text if isinstance(text, str) else text[0] for text in texts]
        best = [long if len(text) > 4 else short for text in first]
        return [Classified((LabelScore(label, 1.0),)) for label in best]


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "dev.json"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("task", "row", "text"),
    [
        ("tnews", NEWS, "股市上涨"),
        ("iflytek", {"label": "110", "label_des": "社区超市", "sentence": "买菜"}, "买菜"),
        ("afqmc", PAIR, ("花呗怎么还款", "花呗还款方式")),
        ("ocnli", ENTAILED, ("小明在北京", "小明在中国")),
        ("cmnli", ENTAILED, ("小明在北京", "小明在中国")),
        ("csl", ABSTRACT, ("图像 学习", "本文研究图像。")),
        ("wsc", NOUN, "因为_小明_生病，[他]没来"),
    ],
)
def test_rows_become_texts(task: str, row: dict[str, Any], text: Text, tmp_path: Path) -> None:
    (example,) = read_clue(task, write(tmp_path, row))
    assert example.text == text
    assert example.label == row["label"]
    assert example.id == row.get("id", 0)


def test_a_pronoun_before_its_noun_is_marked_too(tmp_path: Path) -> None:
    row = {
        "target": {"span1_text": "小明", "span1_index": 4, "span2_text": "他", "span2_index": 0},
        "text": "他来了，小明笑",
        "label": "false",
    }
    (example,) = read_clue("wsc", write(tmp_path, row))
    assert example.text == "[他]来了，_小明_笑"


def test_label_sets() -> None:
    sizes = {name: len(task.labels) for name, task in CLUE_TASKS.items()}
    assert sizes == {"tnews": 15, "iflytek": 119, "afqmc": 2, "ocnli": 3, "cmnli": 3, "csl": 2, "wsc": 2}
    assert CLUE_TASKS["tnews"].labels[0] == "100"
    assert CLUE_TASKS["tnews"].labels[-1] == "116"


def test_accuracy_is_of_examples_with_a_label(tmp_path: Path) -> None:
    short = {**ENTAILED, "sentence1": "短"}
    path = write(tmp_path, ENTAILED, UNSURE, short, {**short, "label": "neutral"})
    names = {"long": "entailment", "short": "neutral"}
    score = evaluate_clue("ocnli", path, Longest(), names=names)
    assert (score.total, score.left_out) == (3, 1)
    assert score.accuracy == pytest.approx(200 / 3)


def test_a_structbert_is_scored(tmp_path: Path) -> None:
    labels = ("entailment", "neutral", "contradiction")
    model = tiny(Classifier, tiny_config(labels=labels))
    guess = model.classify([("小明在北京", "小明在中国")])[0].best.label
    rows = [{**ENTAILED, "label": label} for label in labels]
    for row in rows:
        score = evaluate_clue("cmnli", write(tmp_path, row), model)
        assert score == ClueScore(100.0 if row["label"] == guess else 0.0, 1, 0)


def test_many_rows_go_some_at_a_time(tmp_path: Path) -> None:
    path, classifier = write(tmp_path, *[PAIR] * 600), Longest(("1", "0"))
    assert evaluate_clue("afqmc", path, classifier) == ClueScore(100.0, 600, 0)
    assert classifier.calls == [256, 256, 88]


def test_a_submission_has_a_line_for_each_example(tmp_path: Path) -> None:
    unlabelled: list[dict[str, Any]] = [
        {"id": 5, "sentence1": "短", "sentence2": ""},
        {"sentence1": "很长很长", "sentence2": ""},
    ]
    target = tmp_path / "afqmc_predict.json"
    assert write_submission("afqmc", write(tmp_path, *unlabelled), Longest(("1", "0")), target) == 2
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert lines == [{"id": 5, "label": "0"}, {"id": 1, "label": "0"}]


def test_labels_that_the_task_does_not_have_are_named(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=r"longest says long, short; afqmc's labels are 0, 1"):
        evaluate_clue("afqmc", write(tmp_path, PAIR), Longest())


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("afqmc", "{", "line 1 is not JSON"),
        ("afqmc", json.dumps(PAIR) + "\n[]\n", "line 2 is no example"),
        ("afqmc", json.dumps(NEWS), "sentence1"),
        ("afqmc", json.dumps({**PAIR, "label": "2"}), "the label is '2'"),
        ("afqmc", json.dumps({**PAIR, "id": "x"}), "is no example"),
        ("csl", json.dumps({**ABSTRACT, "keyword": [1]}), "is no example"),
        ("wsc", json.dumps({**NOUN, "target": "it"}), "is no example"),
        ("glue", "", "the task is 'glue'"),
        ("afqmc", json.dumps({**PAIR, "label": None}), "no example with a label"),
        ("afqmc", "", "no example with a label"),
    ],
)
def test_a_file_that_is_no_clue_is_refused(task: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(content)
    first, second = CLUE_TASKS[task].labels if task in CLUE_TASKS else ("0", "1")
    with pytest.raises(MplugError, match=message):
        evaluate_clue(task, path, Longest((first, second)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=r"none\.json"):
        read_clue("afqmc", tmp_path / "none.json")
