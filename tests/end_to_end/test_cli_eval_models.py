"""`mplug eval captions`, `vqa` and `retrieval` with a tiny model of every task: its numbers are those of its texts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mplug
from mplug.checkpoints import native
from mplug.evaluation import captions, vqa
from mplug.evaluation.recall import caption_relevance
from mplug.itm_scoring import ItmScorer
from mplug.train.config import DataConfig
from mplug.train.data import read_captions
from mplug.train.evaluate import picture_pixels
from mplug_services.cli import main
from services.serving import build_model, picture
from services.whole_folder import save_whole

Output = pytest.CaptureFixture[str]
COUNT = 24
CHINESE = 6
SETS = ("drawing", "photo")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_whole(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen photos, all of val, and as many drawings, most of train; captions in the tiny vocabulary's words."""
    folder = tmp_path_factory.mktemp("data")
    for set_name in SETS:
        (folder / "images" / set_name).mkdir(parents=True)
    captioned, asked = [], []
    for number in range(2 * COUNT):
        image, split = f"images/{SETS[number % 2]}/{number}.png", "val" if number % 2 else "train"
        (folder / image).write_bytes(picture(number))
        words = [f"piece{number + 1} piece{place} piece{number % 7 + 60}" for place in (104, 105)]
        chinese = ["红 狗"] if number < 2 * CHINESE else []
        captioned.append({"image": image, "captions": words, "captions_zh": chinese, "split": split})
        for kind in ("colour", "count"):
            question = f"piece{number % 3 + 1} {kind}?"
            answers = [f"piece{number % 2 + 7}"]
            asked.append(
                {"image": image, "question": question, "answers": answers, "type": kind, "split": split}
            )
    for name, rows in (("captions.jsonl", captioned), ("vqa.jsonl", asked)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def evaluate(capsys: Output, *arguments: object) -> dict[str, Any]:
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_captions_are_scored_as_the_pipeline_writes_them(
    model: str, data: Path, capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no java: METEOR takes many seconds to start
    common = ("--model", model, "--data", data, "--max-length", 6, "--beam-size", 2)
    facts = evaluate(capsys, "captions", *common, "--sheet", tmp_path / "sheet", "--noise", "--batch-size", 5)
    writer = mplug.pipeline("image-captioning", model, max_length=6, beam_size=2)
    kept = [image for image in read_captions(data, DataConfig()) if image.split == "val"]
    texts = {image.path: writer(data / image.path)["caption"] for image in kept}
    scores = captions.score(texts, {image.path: image.captions for image in kept}, java=False)
    assert (facts["model"], facts["pictures"]) == ("whole", COUNT)
    assert facts["words"] == "simple"
    assert {name: facts[name] for name in scores.metrics()} == pytest.approx(scores.metrics())

    lines = [json.loads(line) for line in (tmp_path / "sheet" / "examples.jsonl").read_text().splitlines()]
    assert [line["group"] for line in lines] == ["best"] * 7 + ["median"] * 6 + ["worst"] * 7
    assert all(line["text"] == texts[line["id"]] for line in lines)
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
    assert (tmp_path / "sheet" / ".gitignore").read_text() == "*\n"
    with Image.open(tmp_path / "sheet" / "sheet.png") as sheet:
        assert len(np.unique(np.asarray(sheet.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert 0 <= facts["changed_by_noise"] <= 100


def test_chinese_captions_are_those_of_the_pictures_that_have_some(
    model: str, data: Path, capsys: Output
) -> None:
    facts = evaluate(
        capsys, "captions", "--model", model, "--data", data, "--language", "zh", "--max-length", 3
    )
    assert (facts["pictures"], facts["words"]) == (CHINESE, "characters")


def test_answers_stand_beside_the_question_only_baseline(model: str, data: Path, capsys: Output) -> None:
    facts = evaluate(capsys, "vqa", "--model", model, "--data", data, "--max-length", 2, "--noise")
    writer = mplug.pipeline("visual-question-answering", model, max_length=2)
    rows = [json.loads(line) for line in (data / "vqa.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["split"] == "val"]
    right = [
        vqa.accuracy(writer((data / row["image"], row["question"]))["text"], row["answers"]) for row in kept
    ]
    assert facts["accuracy"] == pytest.approx(100 * sum(right) / len(kept))
    # The drawings that are trained on have the other answer: who goes by the questions is always wrong.
    assert facts["question_only"] == 0
    assert {kind: each["questions"] for kind, each in facts["types"].items()} == {
        "colour": COUNT,
        "count": COUNT,
    }
    assert facts["changed_by_noise"] is not None


def test_answers_are_also_chosen_from_a_list(
    model: str, data: Path, capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = ["piece7", "piece8", "piece9 piece10", "piece11"]
    file = tmp_path / "answers.txt"
    file.write_text("\n".join([*choices, "", choices[0]]))
    common = ["--model", model, "--data", str(data), "--answers", str(file), "--rank-k", "3"]
    facts = evaluate(capsys, "vqa", *common, "--max-length", 2)
    chooser = mplug.pipelines.make_runner("visual-question-answering", model)
    rows = [json.loads(line) for line in (data / "vqa.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["split"] == "val"]
    inputs = [mplug.pipelines.Input((data / row["image"]).read_bytes(), row["question"]) for row in kept]
    best = [outcome.ranked[0].text for outcome in chooser.rank(inputs, choices, 3)]
    right = [vqa.accuracy(answer, row["answers"]) for answer, row in zip(best, kept, strict=True)]
    assert sum(right) > 0
    assert facts["ranked"] == pytest.approx(100 * sum(right) / len(kept))
    by_kind = {
        kind: [hit for hit, row in zip(right, kept, strict=True) if row["type"] == kind]
        for kind in facts["types"]
    }
    for kind, hits in by_kind.items():
        assert facts["types"][kind]["ranked"] == pytest.approx(100 * sum(hits) / len(hits))
    without = evaluate(capsys, "vqa", "--model", model, "--data", data, "--max-length", 2)
    assert "ranked" not in without
    assert without["accuracy"] == facts["accuracy"]
    assert without["fewer_than_ten_people"] == len(kept)

    monkeypatch.setenv("COLUMNS", "120")
    assert main(["eval", "vqa", *common, "--limit", "4"]) == 0
    out = capsys.readouterr().out
    assert "ranked %" in out
    assert "4 questions were answered by fewer than ten people" in out


def test_a_table_of_answers(
    model: str, data: Path, capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    arguments = ["--model", model, "--data", str(data), "--max-length", "2", "--limit", "9"]
    assert main(["eval", "vqa", *arguments, "--sheet", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("9 answers of val by whole")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line[0] == "│"]
    assert [row[0] for row in cells] == ["colour", "count", "all"]
    assert sum(int(row[1]) for row in cells[:2]) == int(cells[2][1]) == 9
    lines = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert len(lines) == 9
    assert all(line["question"] in line["id"] for line in lines)


def test_retrieval_in_three_orders(model: str, data: Path, capsys: Output) -> None:
    top_k = 5
    facts = evaluate(capsys, "retrieval", "--model", model, "--data", data, "--rerank-k", top_k)
    assert (facts["pictures"], facts["rerank_k"]) == (COUNT, top_k)
    row = facts["rows"]["English text → image"]
    assert set(facts["rows"]) == {
        f"{pair} {kind}" if pair.endswith("→") else f"{pair} → {kind}"
        for pair, kind in (
            ("English text", "image"),
            ("image", "English text"),
            ("Chinese text", "image"),
            ("image", "Chinese text"),
        )
    }
    # By hand: cosines, then every match of the first five alone.
    images = [image for image in read_captions(data, DataConfig()) if image.split == "val"]
    texts, relevant = caption_relevance([image.captions for image in images])
    searcher, matcher = mplug.load(model), mplug.load(model, task="rerank")
    pixels = picture_pixels(data, images, 32)
    hits: dict[str, int] = {"itc": 0, "itm": 0, "both": 0}
    with torch.inference_mode():
        vectors, tokens = searcher.embed_images(pixels), matcher.encode_image(pixels)
        for number, text in enumerate(texts):
            ids = torch.from_numpy(matcher.tokenizer.encode(text).ids)[None]
            cosines = (vectors @ searcher.embed_texts(ids, ids != 0)[0]).numpy()
            first = np.argsort(-cosines, kind="stable")[:top_k]
            matches = ItmScorer(matcher).score(ids, tokens[torch.from_numpy(first)]).numpy()
            best = {"itc": first[0], "itm": first[matches.argmax()]}
            best["both"] = first[(matches + cosines[first]).argmax()]
            for order, place in best.items():
                hits[order] += bool(relevant[number, place])
    assert {order: each["recall_at_1"] for order, each in row.items()} == {
        order: pytest.approx(100 * count / len(texts)) for order, count in hits.items()
    }
    assert len({*hits.values()}) > 1 or hits["itm"]


def test_without_reranking_there_is_one_order(model: str, data: Path, capsys: Output) -> None:
    facts = evaluate(capsys, "retrieval", "--model", model, "--data", data, "--rerank-k", 0, "--limit", 6)
    assert facts["pictures"] == 6
    assert all(set(orders) == {"itc"} for orders in facts["rows"].values())


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["captions", "--split", "unseen_style"], "has none of it; it has", 2),
        (["captions", "--limit", "0"], "--limit takes a number from 1 on", 2),
        (["vqa", "--batch-size", "0"], "--batch-size takes", 2),
        (["vqa", "--language", "fr"], "no questions to train the baseline on", 2),
        (["vqa", "--answers", "gone.txt"], "--answers gone.txt cannot be read", 2),
        (["vqa", "--answers", os.devnull], "holds no answers", 2),
        (["vqa", "--rank-k", "0"], "--rank-k takes", 2),
        (["retrieval", "--rerank-k", "-1"], "--rerank-k takes", 2),
        (["captions", "--data", "nowhere"], "--data nowhere is not a folder", 2),
    ],
)
def test_what_cannot_be_evaluated_is_told(
    model: str, data: Path, arguments: list[str], said: str, code: int, capsys: Output
) -> None:
    assert main(["eval", arguments[0], "--model", model, "--data", str(data), *arguments[1:]]) == code
    assert said in capsys.readouterr().err


def test_a_model_without_fusion_cannot_rerank(data: Path, tmp_path: Path, capsys: Output) -> None:
    native.save(build_model(), tmp_path / "tiny")
    command = ["eval", "retrieval", "--model", str(tmp_path / "tiny"), "--data", str(data), "--rerank-k", "4"]
    assert main(command) == 1
    assert "tiny has no fusion encoder to match with" in capsys.readouterr().err


def test_a_picture_that_is_none_is_named(model: str, data: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "images" / "photo").mkdir(parents=True)
    (tmp_path / "images" / "photo" / "1.png").write_bytes(b"no picture")
    row = {"image": "images/photo/1.png", "captions": ["piece1"], "split": "val"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    assert main(["eval", "captions", "--model", model, "--data", str(tmp_path)]) == 1
    assert "1.png: these bytes are not an image" in capsys.readouterr().err
