"""`mplug train pretrain` on a user's own file: every objective with its switch; what comes out does every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mplug
from finetuning_runs import anew, losses, metrics, save_start, settings, train, write_rows
from mplug.train.config import override
from mplug.train.experiments.pretraining_on_rows import pretraining
from mplug.train.experiments.recipes import PretrainConfig, pretrain
from mplug.train.run_state import read_log

Output = pytest.CaptureFixture[str]
TERMS = {
    "itc_weight": "itc_loss",
    "itm_weight": "itm_loss",
    "mlm_weight": "mlm_loss",
    "prefix_lm_weight": "prefix_lm_loss",
}
GOALS = {
    "itc_weight": "text_to_image_itc_r1",
    "itm_weight": "r_mean",
    "mlm_weight": "masked_words",
    "prefix_lm_weight": "next_words",
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


def test_a_model_made_anew_learns_by_all_objectives_and_does_every_task(start: Path, tmp_path: Path) -> None:
    data, output = write_rows(tmp_path), tmp_path / "out"
    assert train("pretrain", data, output, anew(start, tmp_path, "epochs=6", "goal=next_words")) == 0
    lines = [line["losses"] for line in read_log(output / "log.jsonl") if "losses" in line]
    assert all(line.keys() == set(TERMS.values()) for line in lines)
    for name in TERMS.values():
        first, last = (sum(line[name] for line in some) for some in (lines[:6], lines[-6:]))
        assert last < 0.9 * first, name
    found = metrics(output)
    assert found[0]["next_words"] < 40 < max(each["next_words"] for each in found)
    assert found[0]["masked_words"] < max(each["masked_words"] for each in found)
    assert {"r_mean", "text_to_image_itc_r1", "image_to_text_both_r10"} <= found[0].keys()

    config: PretrainConfig = override(pretrain(), settings(output / "output_best", "goal=next_words"))
    again = pretraining(config, data)
    assert again.trained.config.name == "mplug-base"
    best = max(found, key=lambda each: each["next_words"])
    measured = dict(again.evaluate())
    # The head of masked words is no part of the model that is kept.
    assert {name: measured[name] for name in best if name != "masked_words"} == pytest.approx(
        {name: value for name, value in best.items() if name != "masked_words"}
    )
    caption = mplug.pipeline("image-captioning", model=output / "output_best", max_length=4)
    assert caption(str(tmp_path / "0.png"))["caption"]
    for task in ("retrieval", "rerank", "caption", "vqa"):
        mplug.load(output / "output_best", task=task)


@pytest.mark.parametrize("weight", TERMS)
def test_each_objective_can_be_trained_alone(start: Path, tmp_path: Path, weight: str) -> None:
    others = [f"objective.{name}=0" for name in TERMS if name != weight]
    values = anew(start, tmp_path, *others, f"goal={GOALS[weight]}", "max_steps=2")
    assert train("pretrain", write_rows(tmp_path), tmp_path / "out", values) == 0
    lines = [line["losses"] for line in read_log(tmp_path / "out" / "log.jsonl") if "losses" in line]
    assert [set(line) for line in lines] == [{TERMS[weight]}] * 2
    assert GOALS[weight] in metrics(tmp_path / "out")[0]
    searches = "r_mean" in metrics(tmp_path / "out")[0]
    assert searches == (weight in ("itc_weight", "itm_weight"))


def test_what_begins_at_random_depends_on_the_seed_alone(start: Path, tmp_path: Path) -> None:
    config: PretrainConfig = override(pretrain(), anew(start, tmp_path))
    data = write_rows(tmp_path)
    first, second = pretraining(config, data), pretraining(config, data)
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert dict(first.evaluate()) == dict(second.evaluate()) == dict(first.evaluate())


def test_further_pretraining_starts_from_a_folder_and_its_first_losses_are_lower(
    start: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path)
    assert train("pretrain", data, tmp_path / "first", anew(start, tmp_path, "max_steps=6")) == 0
    values = settings(tmp_path / "first" / "output_best", "objective.contrast.queue_size=12", "max_steps=1")
    assert train("pretrain", data, tmp_path / "second", values) == 0
    assert losses(tmp_path / "second")[0] < 0.5 * losses(tmp_path / "first")[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["vocabulary="], "--set vocabulary=FILE, or a BERT folder with --set bert=FOLDER"),
        (["vocabulary=gone.txt"], "gone.txt is no file"),
        (["shape=gone"], "gone"),
        (["backbone=timm:gone"], "timm has no model 'gone'"),
        (["objective.itm_weight=0"], "goal=r_mean measures what itm_weight=0 leaves untrained"),
        (["objective.mlm_weight=0", "goal=masked_words"], "mlm_weight=0 leaves untrained"),
        (["start=somewhere"], "leave out start, or bert and vocabulary"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(
    start: Path, tmp_path: Path, capsys: Output, values: list[str], said: str
) -> None:
    data = write_rows(tmp_path)
    assert train("pretrain", data, tmp_path / "out", anew(start, tmp_path, *values)) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()


def test_held_out_pictures_are_neither_trained_on_nor_changed(start: Path, tmp_path: Path) -> None:
    config: PretrainConfig = override(pretrain(), anew(start, tmp_path))
    held_out: Any = pretraining(config, write_rows(tmp_path))._held_out
    (batch,) = held_out()
    assert batch.ids_BL[:, 1].tolist() == [10 + number % 3 for number in range(6)]
