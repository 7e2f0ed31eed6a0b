"""What a run leaves on disk, and what it finds there after it was killed."""

import json
import threading
from pathlib import Path

import pytest
import torch

from mplug.errors import MplugError
from mplug.train.config import LoopConfig
from mplug.train.run_state import Progress, RunFolder, read_log


def test_the_last_two_checkpoints_are_kept_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load() is None
    for step in (999_998, 999_999, 1_000_000):
        folder.save(Progress(step, best_metric=0.5), {"weight": torch.full((2,), float(step)), "note": "x"})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-1000000", "step-999999"]
    loaded = folder.load()
    assert loaded is not None
    assert loaded[0] == Progress(1_000_000, best_metric=0.5)
    assert loaded[1]["weight"].tolist() == [1e6, 1e6]


def test_a_half_written_checkpoint_is_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(Progress(2), {"a": 1})
    with pytest.raises(TypeError):
        folder.save(Progress(4), {"a": threading.Lock()})
    assert (tmp_path / "checkpoints" / "step-000004.tmp").is_dir()
    loaded = folder.load()
    assert loaded is not None
    assert loaded[0].step == 2
    folder.save(Progress(4), {"a": 2})
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-000002",
        "step-000004",
    ]


def test_the_best_model_stays_until_the_next_is_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def write(target: Path, text: str) -> None:
        target.mkdir()
        (target / "weights").write_text(text)
        if text == "half":
            raise OSError("the disk is full")

    folder.keep_best(lambda target: write(target, "first"))
    with pytest.raises(OSError, match="full"):
        folder.keep_best(lambda target: write(target, "half"))
    assert (folder.best / "weights").read_text() == "first"
    folder.keep_best(lambda target: write(target, "second"))
    assert (folder.best / "weights").read_text() == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "output_best"]


def test_the_log_forgets_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.forget_after(0)
    lines = [json.dumps({"step": step, "name": "红"}, ensure_ascii=False) for step in (1, 2, 3)]
    folder.log_file.write_text("\n".join(lines) + '\n{"step": 4, "lo', encoding="utf-8")
    folder.forget_after(2)
    assert [line["step"] for line in read_log(folder.log_file)] == [1, 2]
    assert folder.log_file.read_text(encoding="utf-8") == "\n".join(lines[:2]) + "\n"


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(LoopConfig())
    folder.claim(LoopConfig())
    with pytest.raises(MplugError, match="another configuration"):
        folder.claim(LoopConfig(epochs=7))
    with pytest.raises(MplugError, match="--resume"):
        folder.claim(LoopConfig(), resume=False)
