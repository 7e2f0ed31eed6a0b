"""`mplug models`: the table task -> modules -> parameters -> memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from golden.mplug_cases import tiny
from mplug.checkpoints import native
from mplug.vqa import VqaModel
from mplug_services.cli import main
from text_models import write_folder

Output = pytest.CaptureFixture[str]

# Parameters of the published sizes; tests/mplug/test_published_sizes.py counts them in the reference's own lists.
PARAMETERS = {
    "mplug-base": {
        "retrieval": 152_849_409,
        "rerank": 206_803_970,
        "caption": 223_972_410,
        "vqa": 344_683_578,
    },
    "mplug-large": {
        "retrieval": 371_054_337,
        "rerank": 427_372_802,
        "caption": 442_177_338,
        "vqa": 565_252_410,
    },
}


def test_published_sizes_as_json(capsys: Output) -> None:
    assert main(["models", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {
        name: {task: size["parameters"] for task, size in tasks.items()} for name, tasks in facts.items()
    } == PARAMETERS
    assert facts["mplug-base"]["caption"] == {
        "modules": {"image_encoder": 86_091_264, "text_decoder": 137_881_146},
        "parameters": 223_972_410,
        "bytes": {"float32": 4 * 223_972_410, "bfloat16": 2 * 223_972_410},
    }


def test_published_sizes_as_tables(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models"]) == 0
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert ["vqa", "image_encoder 86,091,264", "344,683,578", "1,314.9 MiB", "657.4 MiB"] in cells
    assert ["", "text_decoder 137,881,146", "", "", ""] in cells
    assert [row[0] for row in cells if row[0]] == 2 * ["retrieval", "rerank", "caption", "vqa"]


def test_a_folder(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(VqaModel)
    native.save(model, tmp_path / "own")
    assert main(["models", str(tmp_path / "own"), "--json"]) == 0
    (tasks,) = json.loads(capsys.readouterr().out).values()
    assert tasks["vqa"]["parameters"] == model.num_parameters
    assert tasks["vqa"]["bytes"]["float32"] == sum(
        parameter.numel() * torch.float32.itemsize for parameter in model.parameters()
    )
    assert set(tasks["caption"]["modules"]) == {"image_encoder", "text_decoder"}
    assert tasks["rerank"] == {"not here": "lacks 2 parameters of itm_head"}

    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models", str(tmp_path / "own")]) == 0
    assert "not here: lacks 2 parameters of itm_head" in capsys.readouterr().out


def test_folders_of_text_models(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models", str(write_folder("palm", tmp_path))]) == 0
    assert "encoder 13,072" in capsys.readouterr().out
    assert main(["models", str(write_folder("nli", tmp_path)), "--json"]) == 0
    (tasks,) = json.loads(capsys.readouterr().out).values()
    assert {task for task, size in tasks.items() if "parameters" in size} == {
        "text-classification",
        "zero-shot-classification",
    }
    assert tasks["fill-mask"] == {"not here": f"{tmp_path / 'nli'} was made for nli, and cannot do fill-mask"}


def test_the_shipped_model(capsys: Output) -> None:
    assert main(["models", "mplug-mini", "--json"]) == 0
    (tasks,) = json.loads(capsys.readouterr().out).values()
    assert list(tasks) == ["retrieval", "rerank", "caption", "vqa"]
    assert all("parameters" in size for size in tasks.values()), tasks


def test_a_folder_without_a_checkpoint(tmp_path: Path, capsys: Output) -> None:
    assert main(["models", str(tmp_path)]) == 1
    assert "holds no checkpoint" in capsys.readouterr().err
