"""`mplug train finetune-text` on four rows and `mplug eval text` of what comes out, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import mplug
from golden.gpt3_cases import tiny_generator
from mplug import gpt3
from mplug.text_writing import write
from mplug_services.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

Output = pytest.CaptureFixture[str]
ROWS = [
    ("piece5 piece6", "piece7 piece8"),
    ("piece8 piece6", "piece9 piece5"),
    ("piece7 piece5", "piece5 piece6"),
    ("piece9 piece9", "piece6 piece7"),
]
QUICK = ["precision=float32", "batch_size=4", "lr=1e-2", "epochs=2", "optimizer.warmup_steps=5"]


def save(file: Path, rows: Sequence[tuple[str, str]]) -> Path:
    lines = [json.dumps({"source": source, "target": target}) + "\n" for source, target in rows]
    file.write_text("".join(lines))
    return file


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def tuned(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-3 after forty passes over the rows."""
    folder = tmp_path_factory.mktemp("tuned")
    gpt3.save(tiny_generator("plain", ffn=128, eod_id=102, dropout=0.0), folder / "start")
    settings = [*QUICK, f"start={folder / 'start'}", f"dev={rows}", "max_text_tokens=24", "log_every=40"]
    changes = [word for setting in settings for word in ("--set", setting)]
    output = folder / "run"
    command = ["train", "finetune-text", "--data", f"{rows}=40", "--output", str(output), *changes]
    assert main(command) == 0
    return output / "output_best"


@pytest.mark.timeout(120)
def test_a_fine_tuned_folder_loads_and_says_what_it_has_learnt(tuned: Path) -> None:
    generator = mplug.load(tuned, task="text-generation")
    texts = write(generator, [source for source, _ in ROWS], method="greedy", min_length=0, max_length=8)
    assert [best.text.strip() for best, *_ in texts] == [target for _, target in ROWS]


# Any: JSON.
def evaluate(capsys: Output, *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", "text", *map(str, arguments), "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_what_was_learnt_is_measured(tuned: Path, rows: Path, tmp_path: Path, capsys: Output) -> None:
    greedy = ["--model", tuned, "--method", "greedy", "--max-length", 8]
    written = tmp_path / "written.jsonl"
    facts = evaluate(capsys, "--data", rows, "--language", "en", "--output", written, *greedy)
    assert facts["perplexity"] < 1.5
    assert (facts["rows"], facts["written"]) == (4, 4)
    assert (facts["accuracy"], facts["rouge_l"], facts["bleu_1"]) == (100, 100, pytest.approx(100))
    texts = [json.loads(line) for line in written.read_text().splitlines()]
    assert [(each["source"], each["text"].strip()) for each in texts] == ROWS
    assert evaluate(capsys, "--data", rows, "--limit", 2, *greedy)["rows"] == 2


def test_couplets_and_poems_are_measured_by_their_form(tuned: Path, rows: Path, capsys: Output) -> None:
    greedy = ["--model", tuned, "--method", "greedy", "--max-length", 8]
    couplets = evaluate(capsys, "--data", rows, "--kind", "couplets", *greedy)
    assert {"couplet_same_length", "couplet_not_copied", "couplet_good"} <= couplets.keys()
    poems = evaluate(
        capsys, "--data", rows, "--kind", "poems", "--known", save_poems(rows), "--metre", 6, *greedy
    )
    assert {"form", "form_of_people", "copied_lines", "metre", "metre_lines"} <= poems.keys()
    assert poems["form_of_people"] == 100


def save_poems(rows: Path) -> Path:
    return save(rows.parent / "known.jsonl", [row for row in ROWS for _ in range(5)])


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--kind", "poems"], "--known FILE go together", 2),
        (["--batch-size", "0"], "--batch-size takes", 2),
        (["--method", "beam", "--temperature", "0.5"], "temperature", 2),
    ],
)
def test_what_cannot_be_measured_is_told(
    tuned: Path, rows: Path, capsys: Output, arguments: list[str], said: str, code: int
) -> None:
    assert main(["eval", "text", "--model", str(tuned), "--data", str(rows), *arguments]) == code
    assert said in capsys.readouterr().err


def test_rows_that_are_not_there_are_told(tuned: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["eval", "text", "--model", str(tuned), "--data", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_a_model_that_is_none_is_told(rows: Path, tmp_path: Path, capsys: Output) -> None:
    output = tmp_path / "run"
    command = ["train", "finetune-text", "--data", str(rows), "--output", str(output)]
    assert main([*command, "--set", f"dev={rows}"]) == 1
    assert "--set start=FOLDER" in capsys.readouterr().err
