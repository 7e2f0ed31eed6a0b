"""`mplug eval clue`: the accuracy of a folder's classifier, and what the board takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mplug
from mplug.evaluation.clue import CLUE_TASKS
from mplug_services.cli import main
from mplug_services.cli.eval_clue import TASKS
from text_models import write_folder

pytestmark = pytest.mark.usefixtures("one_thread")

Output = pytest.CaptureFixture[str]
PAIRS = [(f"piece{number}", f"piece{number + 7}") for number in range(5, 25)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder("nli", tmp_path_factory.mktemp("judge"))


def write(file: Path, labels: list[str | None]) -> Path:
    rows = [
        {"sentence1": first, "sentence2": second, **({} if label is None else {"label": label})}
        for (first, second), label in zip(PAIRS, labels, strict=True)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_command_knows_every_task() -> None:
    assert set(TASKS) == set(CLUE_TASKS)


def test_accuracy_and_submission(folder: Path, tmp_path: Path, capsys: Output) -> None:
    judge = mplug.load(folder, task="text-classification")
    said: list[str | None] = [found.best.label for found in judge.classify(PAIRS)]
    wrong = ["neutral" if label != "neutral" else "contradiction" for label in said[:5]]
    data = write(tmp_path / "dev.json", [*wrong, *said[5:-1], "-"])
    board = tmp_path / "board.json"
    command = ["eval", "clue", "--task", "ocnli", "--data", str(data), "--model", str(folder), "--json"]
    capsys.readouterr()
    assert main([*command, "--submission", str(board)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"written": 20, "accuracy": pytest.approx(100 * 14 / 19), "total": 19, "left_out": 1}
    assert [json.loads(line)["label"] for line in board.read_text().splitlines()] == said


def test_a_file_without_labels_is_for_the_board(folder: Path, tmp_path: Path, capsys: Output) -> None:
    data = write(tmp_path / "test.json", [None] * 20)
    command = ["eval", "clue", "--task", "ocnli", "--data", str(data), "--model", str(folder)]
    assert main(command) == 1
    assert "no example with a label" in capsys.readouterr().err
    assert main([*command, "--submission", str(tmp_path / "board.json")]) == 0
    assert "written 20" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--task", "ocnli", "--name", "x"], 2, "--name takes OWN=CLUES"),
        (["--task", "afqmc"], 1, "give names that map"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str], code: int, message: str, folder: Path, tmp_path: Path, capsys: Output
) -> None:
    data = write(tmp_path / "dev.json", ["0"] * 20)
    assert main(["eval", "clue", "--data", str(data), "--model", str(folder), *arguments]) == code
    assert message in capsys.readouterr().err
