"""`mplug train finetune-vqa` and `finetune-retrieval` on a user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mplug
from finetuning_runs import (
    DEV,
    losses,
    metrics,
    read_rows,
    save_rows,
    save_start,
    settings,
    train,
    write_rows,
)
from mplug.evaluation import vqa
from mplug.train.config import override
from mplug.train.experiments.finetuning import answering, retrieval
from mplug.train.experiments.recipes import RetrievalConfig, VqaConfig, finetune_retrieval, finetune_vqa

Output = pytest.CaptureFixture[str]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


def test_answers_are_learned_and_served_as_evaluated(start: Path, tmp_path: Path) -> None:
    data, output = write_rows(tmp_path), tmp_path / "out"
    assert train("finetune-vqa", data, output, settings(start, "epochs=12")) == 0
    assert len(losses(output)) == 12 * 3
    assert np.mean(losses(output)[-3:]) < 0.5 * np.mean(losses(output)[:3])
    best = max(metrics(output), key=lambda each: each["vqa"])
    assert best["question_only"] == best["question_only_colour"] == pytest.approx(100 / 3)

    config: VqaConfig = override(finetune_vqa(), settings(output / "output_best"))
    experiment = answering(config, data)
    assert dict(experiment.evaluate()) == best
    evaluator: Any = experiment.setup.evaluator
    evaluated = evaluator.texts(mplug.load(output / "output_best", task="vqa"))
    answer = mplug.pipeline("visual-question-answering", model=str(output / "output_best"))
    served = [
        answer((str(tmp_path / row["image"]), row["question"]))["text"] for row in read_rows(data)[:DEV]
    ]
    assert served == list(evaluated.values())


def test_answers_are_chosen_from_a_file(start: Path, tmp_path: Path) -> None:
    data, choices = write_rows(tmp_path), tmp_path / "choices.txt"
    choices.write_text("piece10\npiece11\n\npiece12\n")
    config: VqaConfig = override(finetune_vqa(), settings(start, f"choices_file={choices}"))
    evaluator: Any = answering(config, data).setup.evaluator
    assert evaluator.choices == ("piece10", "piece11", "piece12")


def test_ten_people_s_answers_count_as_the_challenge_counts_them(start: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path)
    rows = read_rows(data)
    people = ["piece10"] * 2 + ["piece11"] * 8
    save_rows(data, [{**row, "answers": people} for row in rows])
    evaluator: Any = answering(override(finetune_vqa(), settings(start)), data).setup.evaluator
    said = {str(number): "piece10" for number in range(DEV)}
    # Two of ten: left out themselves one agrees, else two (8 x 2/3 + 2 x 1/3) / 10.
    assert evaluator.score(said)["vqa"] == pytest.approx(60)


def test_five_people_count_in_training_as_in_evaluation(start: Path, tmp_path: Path) -> None:
    people = ["piece10", *["piece11"] * 4]
    data = write_rows(tmp_path)
    save_rows(data, [{**row, "answers": people} for row in read_rows(data)])
    evaluator: Any = answering(override(finetune_vqa(), settings(start)), data).setup.evaluator
    found = evaluator.score({str(number): "piece10" for number in range(DEV)})
    assert found["vqa"] == pytest.approx(100 * vqa.accuracy("piece10", people)) == pytest.approx(60)


def test_search_is_learned_and_measured_in_every_order(start: Path, tmp_path: Path) -> None:
    data, output = write_rows(tmp_path), tmp_path / "out"
    values = settings(start, "epochs=2", "objective.contrast.queue_size=12")
    assert train("finetune-retrieval", data, output, values) == 0
    assert len(losses(output)) == 2 * 6
    best = max(metrics(output), key=lambda each: each["r_mean"])
    config: RetrievalConfig = override(finetune_retrieval(), settings(output / "output_best"))
    assert dict(retrieval(config, data).evaluate()) == pytest.approx(best)
    assert {"text_to_image_itc_r1", "text_to_image_itm_r1", "image_to_text_itm_r10"} <= best.keys()
    for task in ("retrieval", "rerank"):
        mplug.load(output / "output_best", task=task)


def test_a_question_without_an_answer_is_refused_by_its_line(
    start: Path, tmp_path: Path, capsys: Output
) -> None:
    data = write_rows(tmp_path, answers=[])
    assert train("finetune-vqa", data, tmp_path / "out", settings(start)) == 1
    assert "rows.jsonl, line 24, field 'answers': missing or empty" in capsys.readouterr().err


def test_a_broken_picture_is_left_out_and_its_batch_is_shorter(start: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path)
    (tmp_path / "20.png").write_bytes(b"no picture")
    experiment = answering(override(finetune_vqa(), settings(start)), data)
    sizes = [len(experiment.batch(step, 0).pixels) for step in range(experiment.steps_per_epoch)]
    assert sorted(sizes) == [5, 6, 6]
    Image.new("RGB", (8, 8)).save(tmp_path / "20.png")
    again = answering(override(finetune_vqa(), settings(start)), data)
    whole = [again.batch(step, 0) for step in range(again.steps_per_epoch)]
    assert [len(batch.pixels) for batch in whole] == [6, 6, 6]
