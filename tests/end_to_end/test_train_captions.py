"""`mplug train finetune-captioning` on a user's own file: what it keeps captions as its own evaluation did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mplug
from data_files import WRITERS, captioned
from finetuning_runs import (
    COUNT,
    DEV,
    losses,
    metrics,
    read_rows,
    save_rows,
    save_start,
    settings,
    train,
    train_together,
    write_rows,
)
from mplug import train as training
from mplug.errors import MplugError
from mplug.evaluation import captions
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug.train.config import override
from mplug.train.experiments.captioning import CaptionExperiment
from mplug.train.experiments.finetuning import captioning
from mplug.train.experiments.recipes import CaptionConfig, finetune_captioning
from mplug.train.trainer import Trainer

Output = pytest.CaptureFixture[str]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


class Dying(CaptionExperiment):
    """Breaks off in the middle of an epoch."""

    def after_step(self, step: int) -> None:
        if step == 9:
            raise KeyboardInterrupt


def test_a_user_s_file_trains_a_model_that_captions_as_evaluated(start: Path, tmp_path: Path) -> None:
    data, output = write_rows(tmp_path), tmp_path / "out"
    assert train("finetune-captioning", data, output, settings(start)) == 0

    fallen = losses(output)
    # 18 pictures with two captions each make six batches of six.
    assert len(fallen) == 4 * 6
    assert np.mean(fallen[-3:]) < 0.5 * np.mean(fallen[:3])
    best = max(metrics(output), key=lambda each: each["cider"])
    assert {"cider", "bleu_1", "bleu_4"} <= best.keys()

    config: CaptionConfig = override(finetune_captioning(), settings(output / "output_best"))
    experiment = captioning(config, data)
    assert dict(experiment.evaluate()) == pytest.approx(best)
    model = mplug.load(output / "output_best", task="caption")
    evaluator: Any = experiment.setup.evaluator
    evaluated = evaluator.texts(model)
    caption = mplug.pipeline("image-captioning", model=str(output / "output_best"))
    served = {name: caption(str(tmp_path / name))["caption"] for name in evaluated}
    assert served == evaluated
    assert list(served) == [f"{number}.png" for number in range(DEV)]
    assert len(set(served.values())) > 1
    rows = read_rows(data)
    references = {row["image"]: row["captions"] for row in rows}
    assert captions.score(served, references, java=False).metrics()["cider"] == pytest.approx(best["cider"])


def test_from_python_in_ten_lines(start: Path, tmp_path: Path) -> None:
    data = str(write_rows(tmp_path))
    values = settings(start, "epochs=1")
    best = training.run("finetune-captioning", values, data=data, output=str(tmp_path / "out"))
    caption = mplug.pipeline("image-captioning", model=best)
    rows = [row | {"image": str(tmp_path / row["image"])} for row in read_rows(Path(data))[:DEV]]
    written = {row["image"]: caption(row["image"])["caption"] for row in rows}
    found = captions.score(written, {row["image"]: row["captions"] for row in rows}, java=False).metrics()
    assert found == pytest.approx(metrics(tmp_path / "out")[-1])
    with pytest.raises(MplugError, match="holds a run already"):
        training.run("finetune-captioning", values, data=data, output=tmp_path / "out", resume=False)


def test_a_run_goes_on_with_the_batches_it_would_have_had(start: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path)
    config: CaptionConfig = override(finetune_captioning(), settings(start, "accumulate=2"))
    whole, entered = captioning(config, data), captioning(config, data)
    for step, part in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        batch = whole.batch(step, part)
    again = entered.batch(1, 1)
    assert torch.equal(again.pixels, batch.pixels)
    assert torch.equal(again.ids_BL, batch.ids_BL)
    assert not torch.equal(entered.batch(0, 1).pixels, again.pixels)
    assert torch.equal(entered.batch(1, 1).pixels, again.pixels)


def test_a_run_that_broke_off_ends_as_an_unbroken_one(start: Path, tmp_path: Path) -> None:
    data, values = write_rows(tmp_path), settings(start, "checkpoint_every=4")
    assert train("finetune-captioning", data, tmp_path / "whole", values) == 0
    config: CaptionConfig = override(finetune_captioning(), values)
    made = captioning(config, data)
    with pytest.raises(KeyboardInterrupt):
        Trainer(Dying(made.trained, config.objective, made.setup), config, tmp_path / "broken").fit()
    assert train("finetune-captioning", data, tmp_path / "broken", values) == 1, "it is not continued unasked"
    assert train("finetune-captioning", data, tmp_path / "broken", values, "--resume") == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("kind", WRITERS)
def test_any_kind_of_file_is_trained_on(start: Path, tmp_path: Path, kind: str) -> None:
    values = settings(start, "held_out_percent=30", "num_dev_images=5", "seed=3")
    config: CaptionConfig = override(finetune_captioning(), values)
    data = Path(WRITERS[kind](tmp_path, captioned(COUNT)))
    experiment = captioning(config, data)
    evaluator: Any = experiment.setup.evaluator
    num_dev = len(evaluator.texts(experiment.trained))
    assert 0 < num_dev < COUNT
    assert len(experiment.batch(0, 0).pixels) == 6


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "how",
    [
        ("sharding=none",),
        ("sharding=full",),
        ("sharding=full", "recomputed=('image_encoder', 'text_decoder')"),
    ],
)
def test_two_processes_train_as_one(start: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    data, values = write_rows(tmp_path), settings(start, "accumulate=2", "epochs=1", *how)
    assert train("finetune-captioning", data, tmp_path / "one", values) == 0
    train_together("finetune-captioning", data, tmp_path / "two", values)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")


def test_pictures_are_evaluated_as_they_are_served_and_trained_on_changed(
    start: Path, tmp_path: Path
) -> None:
    config: CaptionConfig = override(finetune_captioning(), settings(start, "batch_size=4"))
    experiment = captioning(config, write_rows(tmp_path))
    evaluator: Any = experiment.setup.evaluator
    batches = list(evaluator.batches())
    assert [list(batch.keys) for batch in batches] == [[f"{n}.png" for n in range(4)], ["4.png", "5.png"]]
    plain = {
        name: torch.from_numpy(to_pixels(decode_image((tmp_path / name).read_bytes()), 32))
        for name in (f"{number}.png" for number in range(COUNT))
    }
    for batch in batches:
        assert torch.equal(batch.pixels, torch.stack([plain[name] for name in batch.keys]))
    trained = [pixels for step in range(9) for pixels in experiment.batch(step, 0).pixels]
    unchanged = [pixels for pixels in trained if any(torch.equal(pixels, each) for each in plain.values())]
    assert len(unchanged) < len(trained) / 4


def test_every_caption_comes_once_an_epoch(start: Path, tmp_path: Path) -> None:
    config: CaptionConfig = override(finetune_captioning(), settings(start))
    experiment = captioning(config, write_rows(tmp_path))
    batches = [experiment.batch(step, 0) for step in range(experiment.steps_per_epoch)]
    seen = [
        (int(identity), tuple(ids))
        for b in batches
        for identity, ids in zip(b.identity_B, b.ids_BL.tolist(), strict=True)
    ]
    assert len(seen) == len(set(seen)) == 2 * (COUNT - DEV)


def test_a_prompt_is_read_written_and_not_scored(start: Path, tmp_path: Path) -> None:
    values = settings(start, "prompt=Piece60  piece61")
    config: CaptionConfig = override(finetune_captioning(), values)
    experiment = captioning(config, write_rows(tmp_path))
    batch = experiment.batch(0, 0)
    assert batch.given_B.tolist() == [2] * 6
    assert batch.ids_BL[:, 1:3].tolist() == [[60, 61]] * 6
    evaluator: Any = experiment.setup.evaluator
    written = evaluator.texts(experiment.trained)
    assert all(text.startswith("piece60 piece61") for text in written.values())
    said = {name: f"piece{10 + number % 3} piece20" for number, name in enumerate(written)}
    prompted = {name: f"piece60 piece61 {text}" for name, text in said.items()}
    assert evaluator.score(prompted) == evaluator.score(said)


def test_a_second_file_chooses_where_one_is_named(start: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path)
    rows = read_rows(data)
    other = save_rows(tmp_path / "other.jsonl", rows[:2])
    save_rows(data, [{**row, "split": ""} for row in rows[2:]])
    config: CaptionConfig = override(finetune_captioning(), settings(start, f"dev={other}"))
    experiment = captioning(config, data)
    evaluator: Any = experiment.setup.evaluator
    assert list(evaluator.texts(experiment.trained)) == ["0.png", "1.png"]
    assert experiment.steps_per_epoch == 2 * (COUNT - 2) // 6


@pytest.mark.parametrize(
    ("row", "values", "said"),
    [
        ({"captions": []}, [], f"rows.jsonl, line {COUNT}, field 'captions': missing or empty"),
        ({"captions": 7}, [], f"rows.jsonl, line {COUNT}, field 'captions': 7 is no text"),
        ({}, ["batch_size=64"], "lower batch_size"),
        ({}, ["start="], "--set start=FOLDER"),
        ({}, ["dev=gone.jsonl"], "gone.jsonl"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(
    start: Path, tmp_path: Path, capsys: Output, row: dict[str, Any], values: list[str], said: str
) -> None:
    data = write_rows(tmp_path, **row)
    assert train("finetune-captioning", data, tmp_path / "out", settings(start, *values)) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists(), "nothing stands in the way of the next try"


def test_rows_without_a_split_to_choose_by_are_refused(start: Path, tmp_path: Path, capsys: Output) -> None:
    data = write_rows(tmp_path)
    save_rows(data, [{**row, "split": "train"} for row in read_rows(data)])
    assert train("finetune-captioning", data, tmp_path / "out", settings(start, "held_out_percent=0")) == 1
    assert "--set dev=FILE" in capsys.readouterr().err
