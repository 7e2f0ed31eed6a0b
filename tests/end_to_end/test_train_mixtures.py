"""`mplug train … --data A --data B=2`: several files as one, by their weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetuning_runs import COUNT, DEV, losses, read_rows, save_rows, save_start, settings, train, write_rows
from mplug.train.config import override
from mplug.train.experiments.batches import TextBatch
from mplug.train.experiments.finetuning import answering, captioning, retrieval, rewarded_captioning
from mplug.train.experiments.recipes import (
    CaptionConfig,
    finetune_captioning,
    finetune_captioning_scst,
    finetune_retrieval,
    finetune_vqa,
)

Output = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


def in_two_files(folder: Path, first: int, **changes: Any) -> tuple[str, str]:
    """The training rows shared out: so many in one file, beside the rows to choose by, the others in another."""
    data = write_rows(folder)
    rows = read_rows(data)
    second = save_rows(folder / "more.jsonl", [{**row, **changes} for row in rows[DEV + first :]])
    save_rows(data, rows[: DEV + first])
    return str(data), str(second)


def captions_of(batches: list[TextBatch]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(ids) for batch in batches for ids in batch.ids_BL[:, 1:4].tolist())


def test_rows_come_as_often_as_their_weights_say(start: Path, tmp_path: Path) -> None:
    one, more = in_two_files(tmp_path, 6, captions=["piece70 piece71 piece72"])
    config: CaptionConfig = override(finetune_captioning(), settings(start, "batch_size=4", "seed=1"))
    experiment = captioning(config, [one, f"{more}=2"])
    # 6 rows of two captions, and 12 of one that come twice.
    assert experiment.steps_per_epoch == (6 * 2 + 12 * 2) // 4
    steps = 20 * experiment.steps_per_epoch
    seen = captions_of([experiment.batch(step, 0) for step in range(steps)])
    # Draws of the second file: 720 chances of two in three, four standard deviations are 51.
    assert abs(seen[70, 71, 72] - 480) < 51
    others = [count for caption, count in seen.items() if caption != (70, 71, 72)]
    assert len(others) == 2 * 3
    assert max(others) - min(others) <= 4, "a file's rows and their captions take turns"


def test_two_files_without_weights_are_as_one(start: Path, tmp_path: Path) -> None:
    one, more = in_two_files(tmp_path, 11)
    values = settings(start, "epochs=1")
    assert train("finetune-captioning", [one, more], tmp_path / "out", values) == 0
    assert len(losses(tmp_path / "out")) == 2 * (COUNT - DEV) // 6
    assert train("finetune-captioning", [one, more], tmp_path / "again", values) == 0
    assert losses(tmp_path / "again") == losses(tmp_path / "out")
    assert train("finetune-captioning", [one, f"{more}=3"], tmp_path / "more", values) == 0
    assert len(losses(tmp_path / "more")) == 2 * (11 + 3 * 7) // 6


def test_a_picture_of_two_files_has_all_its_captions_and_one_split(start: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path)
    rows = read_rows(data)
    split = {"split": ""}
    save_rows(data, [{**row, **split, "captions": row["captions"][:1]} for row in rows])
    other = save_rows(
        tmp_path / "other.jsonl", [{**row, **split, "captions": row["captions"][1:]} for row in rows]
    )
    values = settings(start, "held_out_percent=30", "objective.contrast.queue_size=12")
    experiment = retrieval(override(finetune_retrieval(), values), [str(data), str(other)])
    evaluator: Any = experiment.setup.evaluator
    texts = {row["image"]: row["captions"] for row in rows}
    assert 0 < len(evaluator.texts) < COUNT
    assert evaluator.texts == {name: texts[name] for name in evaluator.texts}
    rewarded = rewarded_captioning(
        override(finetune_captioning_scst(), settings(start, "held_out_percent=30")), [str(data), str(other)]
    )
    trained = {key for step in range(6) for key in rewarded.batch(step, 0).keys}
    assert not trained & evaluator.texts.keys()


def test_pictures_of_one_name_in_two_folders_are_two(start: Path, tmp_path: Path) -> None:
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        files.append(str(write_rows(tmp_path / name)))
    values = settings(start, "objective.contrast.queue_size=12")
    experiment = retrieval(override(finetune_retrieval(), values), files)
    evaluator: Any = experiment.setup.evaluator
    assert list(evaluator.texts) == [f"{name}/{number}.png" for name in "ab" for number in range(DEV)]
    identities = {int(each) for step in range(12) for each in experiment.batch(step, 0).identity_B}
    assert len(identities) == 2 * (COUNT - DEV)


def test_rows_to_choose_by_may_lie_in_a_file_of_their_own(start: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path)
    rows = read_rows(data)
    dev = save_rows(tmp_path / "dev.jsonl", rows[:DEV])
    save_rows(data, rows[DEV:])
    experiment = answering(override(finetune_vqa(), settings(start)), [str(data), str(dev)])
    evaluator: Any = experiment.setup.evaluator
    assert len(evaluator.texts(experiment.trained)) == DEV
    assert experiment.steps_per_epoch == (COUNT - DEV) // 6


@pytest.mark.parametrize(
    ("data", "said", "code"),
    [
        (["rows.jsonl", "gone.jsonl=2"], "--data gone.jsonl does not exist", 2),
        (["rows.jsonl", "rows.jsonl=0"], "has the weight 0.0: give a number above 0", 2),
        (["dev.jsonl"], "there are no rows to train on: all are dev", 1),
    ],
)
def test_what_cannot_be_is_refused(
    start: Path,
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
    data: list[str],
    said: str,
    code: int,
) -> None:
    rows = read_rows(write_rows(tmp_path))
    save_rows(tmp_path / "dev.jsonl", rows[:DEV])
    monkeypatch.chdir(tmp_path)
    assert train("finetune-captioning", data, tmp_path / "out", settings(start)) == code
    assert said in capsys.readouterr().err


def test_mplug_mini_trains_on_one_folder(tmp_path: Path, capsys: Output) -> None:
    assert train("mplug-mini", [str(tmp_path), f"{tmp_path}=2"], tmp_path / "out", []) == 1
    assert "one folder, without a weight" in capsys.readouterr().err
