"""`mplug verify`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.mplug_cases import GOLDEN, read_case
from mplug_services.cli import main

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A captioning model; what stands in for ModelScope is found by the child."""
    monkeypatch.setenv("PYTHONPATH", str(GOLDEN / "reference_stand_in"))
    monkeypatch.setenv("COLUMNS", "120")
    return str(read_case("caption_large").write_modelscope(tmp_path / "caption"))


def test_equal_as_a_table(folder: str, capsys: Output) -> None:
    assert main(["verify", folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells] == [
        "pixels",
        "vision tower",
        "image tokens",
        "first logits",
        "generated ids",
    ]
    assert cells[0][1:] == ["1 x 3 x 32 x 32", "0.0e+00", "1e-05", "yes"]
    assert cells[-1][3:] == ["0e+00", "yes"]
    assert lines[-1] == "all 5 stages are equal"
    assert any(line.startswith("ModelScope's: ") and "torch" in line for line in lines)


def test_the_first_difference_is_named(folder: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_CHANGES", "image_encoder.adapter.norm.bias")
    assert main(["verify", folder]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("first difference: image tokens, [0, 0, 0]: ours ")
    assert "NO" in out

    assert main(["verify", folder, "--json", "--tolerance", "1e-7"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is False
    assert found["first difference"]["stage"] == "image tokens"
    assert found["first difference"]["index"] == [0, 0, 0]
    ours, reference = (float(found["first difference"][side]) for side in ("ours", "reference"))
    assert reference - ours == pytest.approx(0.01, rel=1e-3)
    assert found["stages"][0] == {
        "stage": "pixels",
        "shape": [1, 3, 32, 32],
        "difference": 0.0,
        "limit": 1e-7,
        "ok": True,
    }


def test_where_modelscope_stopped(folder: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_CHANGES", "no.such.weight")
    assert main(["verify", folder]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("equal so far, but ModelScope stopped before vision tower: AttributeError")


def test_failures_say_what_to_do(folder: str, tmp_path: Path, capsys: Output) -> None:
    assert main(["verify", folder, "--reference-python", str(tmp_path / "gone")]) == 1
    assert "--reference-python names the Python" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 1
    assert "config.yaml is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone is not a folder"),
        ([".", "--image", "gone.png"], "--image gone.png is not a file"),
        ([".", "--task", "rerank"], "rerank"),
        ([".", "--task", "caption", "--question", "what?"], "--question is for vqa and retrieval"),
        ([".", "--tolerance", "0"], "'0' is not a number between 0 and 1"),
        ([".", "--tolerance", "small"], "'small' is not a number"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, capsys: Output) -> None:
    try:
        code = main(["verify", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
