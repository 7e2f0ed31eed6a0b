"""`mplug.pipeline` of texts: ModelScope's inputs and answers, every task and every name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mplug
from mplug import remote_models
from mplug.errors import MplugError
from mplug.pipelines import with_method
from mplug.text.pairs import Text
from mplug.text_classifier import Classified, Question
from mplug.text_inputs import read_faq, read_judged, read_text
from mplug.text_loading import own_task
from mplug.text_pipelines import TextPipeline, TextRunner, make_text_runner
from mplug.text_tasks import TEXT_TASKS
from mplug.text_writing import write
from text_models import FOLDERS, write_folder

TEXTS = ["piece9 piece10 piece11", "piece20", "piece30 piece31 piece32 piece33"]
PAIRS: list[Text] = [("piece9 piece10", "piece11"), ("piece20", "piece21"), ("piece30", "piece31 piece32")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text_pipelines")
    for name in FOLDERS:
        write_folder(name, place)
    return place


def test_every_name_of_a_task_makes_its_pipeline(folders: Path) -> None:
    folder_of = {
        "text-generation": "palm",
        "text-classification": "nli",
        "zero-shot-classification": "nli",
        "token-classification": "words",
        "fill-mask": "masks",
        "faq-question-answering": "faq",
    }
    kinds: dict[str, set[type]] = {}
    for name, task in TEXT_TASKS.items():
        with mplug.pipeline(name, folders / folder_of[task]) as pipeline:
            assert pipeline.task == name
            assert pipeline.runner.model_name == folder_of[task]
            kinds.setdefault(task, set()).add(type(pipeline))
    assert all(len(each) == 1 for each in kinds.values())
    assert len(set().union(*kinds.values())) == len(kinds)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("palm", {"max_length": 6}),
        ("palm", {"max_length": 6, "top_k": 5, "seed": 3}),
        ("plug", {"max_length": 6, "seed": 1}),
        ("plug", {"max_length": 6, "beam_size": 2}),
        ("gpt3", {"max_length": 6, "seed": 2}),
        ("gpt3", {"max_length": 6, "method": "greedy", "stop": ("piece1",)}),
    ],
)
def test_what_is_written(name: str, settings: dict[str, Any], folders: Path) -> None:
    generator = mplug.load(folders / name, task="text-generation")
    written = write(generator, TEXTS, **with_method(settings))
    # ModelScope's pipelines of GPT-3 show the prompt, too.
    prompts = TEXTS if name == "gpt3" else [""] * len(TEXTS)
    expected = [{"text": prompt + each[0].text} for prompt, each in zip(prompts, written, strict=True)]

    with mplug.pipeline("text-generation", folders / name, **settings) as pipeline:
        assert pipeline(TEXTS) == expected
        assert pipeline(TEXTS, batch_size=2) == expected
        assert pipeline(TEXTS[0]) == expected[0]
    with mplug.pipeline("text-generation", folders / name) as pipeline:
        assert pipeline(TEXTS[1], **settings) == expected[1]
        assert pipeline({"sentence": TEXTS[1]}, **settings) == expected[1]


def test_settings_of_a_call_are_that_call_s(folders: Path) -> None:
    with mplug.pipeline("text-generation", folders / "palm", max_length=4) as pipeline:
        before = pipeline(TEXTS[0])
        assert len(pipeline(TEXTS[0], max_length=9)["text"]) > len(before["text"])
        assert pipeline(TEXTS[0]) == before


def test_one_stop_string(folders: Path) -> None:
    with mplug.pipeline("text-generation", folders / "palm", max_length=6) as pipeline:
        whole = pipeline(TEXTS[0])["text"]
        stop = whole.split()[2]
        assert pipeline(TEXTS[0], stop=stop) == pipeline(TEXTS[0], stop=(stop,))
        assert pipeline(TEXTS[0], stop=stop)["text"] == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_size": 3, "top_k": 2}, "settings of several methods"),
        ({"out_length": 5}, "out_length"),
        ({"max_length": 0}, "max_length"),
        ({"stop": ("",)}, "stop string is empty"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str, folders: Path) -> None:
    pipeline = mplug.pipeline("text-generation", folders / "palm")
    with pytest.raises(MplugError, match=message):
        pipeline("piece9", **settings)


def labels(found: Classified) -> dict[str, Any]:
    return {"scores": [each.score for each in found.scores], "labels": [each.label for each in found.scores]}


def same_labels(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one["labels"] == other["labels"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)


@pytest.mark.parametrize(
    ("task", "name", "items"),
    [
        ("sentiment-classification", "sentiment", TEXTS),
        ("text-classification", "plug classifier", TEXTS),
        ("text-classification", "plug_mental", PAIRS),
        ("nli", "nli", PAIRS),
        ("sentence-similarity", "similarity", PAIRS),
    ],
)
def test_labels_of_texts_and_pairs(task: str, name: str, items: list[Text], folders: Path) -> None:
    classifier = mplug.load(folders / name, task="text-classification")
    expected = [labels(each) for each in classifier.classify(items)]
    with mplug.pipeline(task, folders / name) as pipeline:
        assert list(pipeline(items[0])) == ["scores", "labels"]
        same_labels(pipeline(items, batch_size=2), expected)
        assert pipeline(items[0], topk=1)["labels"] == expected[0]["labels"][:1]
        with pytest.raises(MplugError, match="topk is 0"):
            pipeline(items[0], topk=0)


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_never_seen(multi_label: bool, folders: Path) -> None:
    classifier = mplug.load(folders / "zero-shot", task="zero-shot-classification")
    asked = ["piece40", "piece41 piece42"]
    expected = classifier.classify(TEXTS, asked, template="piece5 {}", multi_label=multi_label)
    with mplug.pipeline("zero-shot-classification", folders / "zero-shot") as pipeline:
        found = pipeline(
            TEXTS,
            candidate_labels=asked,
            hypothesis_template="piece5 {}",
            multi_label=multi_label,
            batch_size=3,
        )
        same_labels(found, [labels(each) for each in expected])
        with pytest.raises(MplugError, match="candidate_labels is the text 'piece40'; give a list"):
            pipeline(TEXTS[0], candidate_labels="piece40")
        with pytest.raises(MplugError, match="labels"):
            pipeline(TEXTS[0], candidate_labels=[])
        with pytest.raises(MplugError, match="is a pair; labels are given to single texts"):
            pipeline.runner.classify(PAIRS, asked)


def test_spans_and_words(folders: Path) -> None:
    names = mplug.load(folders / "names", task="token-classification").tag(TEXTS)
    with mplug.pipeline("named-entity-recognition", folders / "names") as pipeline:
        found = pipeline(TEXTS, batch_size=3)
    assert any(each["output"] for each in found)
    for text, one, tagged in zip(TEXTS, found, names, strict=True):
        for chunk, span in zip(one["output"], tagged.spans, strict=True):
            assert list(chunk) == ["type", "start", "end", "prob", "span"]
            assert chunk["span"] == text[chunk["start"] : chunk["end"]]
            assert (chunk["type"], chunk["prob"]) == (span.label, pytest.approx(span.score, abs=1e-4))
    words = mplug.load(folders / "words", task="word-segmentation").tag(TEXTS)
    with mplug.pipeline("word-segmentation", folders / "words") as pipeline:
        assert pipeline(TEXTS, batch_size=3) == [
            {"output": [span.text for span in each.spans]} for each in words
        ]


def test_masks(folders: Path) -> None:
    texts = ["piece9 [MASK] piece10", "[MASK] [MASK]"]
    expected = [{"text": each.text} for each in mplug.load(folders / "masks", task="fill-mask").fill(texts)]
    with mplug.pipeline("fill-mask", folders / "masks") as pipeline:
        assert pipeline(texts, batch_size=2) == expected
        with pytest.raises(MplugError, match=r"no \[MASK\]"):
            pipeline("piece9")


def test_known_questions(folders: Path) -> None:
    support = [{"text": text, "label": str(number % 2)} for number, text in enumerate(TEXTS)]
    known = [Question(each["text"], each["label"]) for each in support]
    answers = mplug.load(folders / "faq", task="faq-question-answering").answer(TEXTS[:2], known)
    expected = [[{"label": each.label, "score": each.score} for each in one.scores] for one in answers]
    with mplug.pipeline("faq-question-answering", folders / "faq") as pipeline:
        found = pipeline({"query_set": TEXTS[:2], "support_set": support})
        assert list(found) == ["output"]
        for one, other in zip(found["output"], expected, strict=True):
            assert [each["label"] for each in one] == [each["label"] for each in other]
            assert [each["score"] for each in one] == pytest.approx(
                [each["score"] for each in other], abs=1e-4
            )
        (alone,) = pipeline({"query_set": TEXTS[0], "support_set": support})["output"]
        assert [each["label"] for each in alone] == [each["label"] for each in expected[0]]
        with pytest.raises(MplugError, match="no known questions"):
            pipeline({"query_set": TEXTS, "support_set": []})


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_nothing(batch_size: int, folders: Path) -> None:
    with pytest.raises(MplugError, match=f"batch_size is {batch_size}; it must be at least 1"):
        mplug.pipeline("nli", folders / "nli")(PAIRS, batch_size=batch_size)


def test_an_empty_list_has_no_answers(folders: Path) -> None:
    assert mplug.pipeline("nli", folders / "nli")([]) == []


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("nli", {"max_length": 3}, "max_length: nli generates nothing"),
        ("fill-mask", {"image_size": 32}, "image_size is 32, and fill-mask sees no pictures"),
        ("painting", {}, "pipelines are image-captioning.*text-generation, gpt3-generation"),
    ],
)
def test_pipelines_that_cannot_be(task: str, options: dict[str, Any], message: str, folders: Path) -> None:
    with pytest.raises(MplugError, match=message):
        mplug.pipeline(task, folders / "nli", **options)


def test_a_runner_does_its_own_task_alone(folders: Path) -> None:
    runner = make_text_runner("nli", folders / "nli")
    with pytest.raises(
        MplugError, match="nli was loaded for text-classification; make another pipeline for fill"
    ):
        runner.fill(["[MASK]"])


CALLS: dict[str, Callable[[TextRunner], object]] = {
    "gpt3": lambda runner: runner.generate(["piece9"], {"max_length": 3}),
    "nli": lambda runner: runner.classify(["piece9"]),
    "zero-shot": lambda runner: runner.classify(["piece9"], ["piece5"]),
    "words": lambda runner: runner.tag(["piece9 piece10 piece11 piece12"]),
    "masks": lambda runner: runner.fill(["[MASK]"]),
    "faq": lambda runner: runner.answer(["piece9"], [Question("piece9", "a")]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_broken_model_says_so(name: str, tmp_path: Path) -> None:
    folder = write_folder(name, tmp_path)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for tensor in weights.values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    torch.save(weights, folder / "pytorch_model.bin")
    runner = make_text_runner(own_task(folder), folder)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        CALLS[name](runner)


def test_an_address_is_asked_through_the_entry_point(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, Mapping[str, Any]]] = []

    def reach(task: str, address: str, settings: Mapping[str, Any]) -> TextRunner:
        asked.append((task, address, settings))
        return make_text_runner(task, folders / "nli")

    monkeypatch.setattr(EntryPoint, "load", lambda entry: reach)
    there: TextPipeline = mplug.pipeline("sentence-similarity", "somewhere:50051")
    assert asked == [("text-classification", "somewhere:50051", {})]
    assert mplug.pipeline("nli", folders / "nli")(PAIRS) == mplug.pipeline("nli", "localhost:1")(PAIRS)
    there.close()


def test_an_address_without_a_package_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_models, "REMOTE_NAME", "nobody")
    with pytest.raises(MplugError, match="install mplug-serve"):
        mplug.pipeline("nli", "somewhere:50051")


# What callers may give.


@given(st.text(), st.text())
def test_texts_and_pairs_come_through(one: str, other: str) -> None:
    assert read_text(one) == read_text({"text": one}) == read_text({"src_txt": one, "tgt_txt": other}) == one
    pair = (one, other)
    for item in (
        pair,
        {"text": one, "text2": other},
        {"sentence1": one, "sentence2": other},
        {"premise": one, "hypothesis": other},
    ):
        assert read_judged(item, pairs=False) == read_judged(item, pairs=True) == pair
    assert read_judged({"text": one}, pairs=False) == one


@pytest.mark.parametrize("item", [None, 3, b"text", {"question": "x"}, {"text": 3}, ["x"]])
def test_what_is_no_text(item: Any) -> None:
    with pytest.raises(MplugError, match=r"the input is|this one has \['question'\]"):
        read_text(item)


@pytest.mark.parametrize(
    "item", [("x",), ("x", "y", "z"), ("x", 3), {"text": "x", "text2": None}, {"premise": "x"}, ()]
)
def test_what_is_no_pair(item: Any) -> None:
    with pytest.raises(MplugError, match=r"a pair is two texts|this task judges pairs"):
        read_judged(item, pairs=True)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("x", "give {'query_set'"),
        ({"query_set": ["x"]}, "give {'query_set'"),
        ({"query_set": [3], "support_set": []}, "query_set is"),
        ({"query_set": "x", "support_set": {"text": "x", "label": "1"}}, "support_set is"),
        ({"query_set": "x", "support_set": ["x"]}, r"support_set\[0\] is 'x'"),
        ({"query_set": "x", "support_set": [{"text": "x"}]}, r"support_set\[0\] is"),
    ],
)
def test_what_is_no_faq(item: Any, message: str) -> None:
    with pytest.raises(MplugError, match=message):
        read_faq(item)
