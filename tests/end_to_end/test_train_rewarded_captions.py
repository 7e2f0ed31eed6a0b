"""`mplug train finetune-captioning-scst` goes on from captions learned word by word, with CIDEr as the reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mplug
from finetuning_runs import (
    DEV,
    losses,
    metrics,
    save_start,
    settings,
    train,
    train_together,
    write_rows,
)
from mplug.evaluation.cider import CiderReward
from mplug.train.config import override
from mplug.train.experiments.finetuning import rewarded_captioning
from mplug.train.experiments.recipes import ScstConfig, finetune_captioning_scst

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("objective.min_length=1", "objective.max_length=8", "objective.captions=4")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rewards_make_better_captions_of_those_learned_by_heart(
    start: Path, tmp_path: Path, precision: str
) -> None:
    data = write_rows(tmp_path)
    assert train("finetune-captioning", data, tmp_path / "words", settings(start, "epochs=1")) == 0
    (learned,) = metrics(tmp_path / "words")
    values = settings(tmp_path / "words" / "output_best", *SHORT, "epochs=3", f"precision={precision}")
    values.append("learning_rates.rest=1e-3")
    assert train("finetune-captioning-scst", data, tmp_path / "rewards", values) == 0
    best = max(metrics(tmp_path / "rewards"), key=lambda each: each["cider"])
    assert learned["cider"] < 300 < best["cider"]
    assert len(losses(tmp_path / "rewards")) == 3 * 6

    config: ScstConfig = override(finetune_captioning_scst(), settings(tmp_path / "rewards" / "output_best"))
    experiment = rewarded_captioning(config, data)
    assert dict(experiment.evaluate()) == pytest.approx(best)
    evaluator: Any = experiment.setup.evaluator
    caption = mplug.pipeline("image-captioning", model=tmp_path / "rewards" / "output_best")
    served = {f"{n}.png": caption(str(tmp_path / f"{n}.png"))["caption"] for n in range(DEV)}
    assert served == evaluator.texts(experiment.trained)


def test_the_reward_is_cider_against_the_training_pictures_without_the_prompt(
    start: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path)
    values = settings(start, "objective.prompt=Piece60 piece61")
    config: ScstConfig = override(finetune_captioning_scst(), values)
    experiment = rewarded_captioning(config, data)
    references = {
        f"{number}.png": [
            f"piece{10 + number % 3} piece20 piece{10 + number % 3 + more}".split() for more in (20, 40)
        ]
        for number in range(DEV, 24)
    }
    cider = CiderReward(references)
    keys, texts = ["7.png", "8.png"], ["piece11 piece20 piece31", "piece11 piece20"]
    wanted = cider.scores(keys, [text.split() for text in texts])
    prompted = [f"piece60 piece61 {text}" for text in texts]
    assert list(experiment._reward(keys, prompted)) == pytest.approx(wanted.tolist())
    assert wanted[0] > wanted[1]
    batch = experiment.batch(0, 0)
    assert set(batch.keys) <= references.keys()


def test_an_epoch_shows_a_picture_as_often_as_it_has_captions(start: Path, tmp_path: Path) -> None:
    config: ScstConfig = override(finetune_captioning_scst(), settings(start))
    experiment = rewarded_captioning(config, write_rows(tmp_path))
    keys = [key for step in range(experiment.steps_per_epoch) for key in experiment.batch(step, 0).keys]
    assert sorted(keys) == sorted(f"{number}.png" for number in range(DEV, 24) for _ in range(2))


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_write_and_learn_as_one(start: Path, tmp_path: Path, sharding: str) -> None:
    data = write_rows(tmp_path)
    values = settings(start, *SHORT, "accumulate=2", "epochs=1", f"sharding={sharding}")
    assert train("finetune-captioning-scst", data, tmp_path / "one", values) == 0
    train_together("finetune-captioning-scst", data, tmp_path / "two", values)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3, abs=1e-5)
    assert any(losses(tmp_path / "one"))
