"""`mplug eval text` on the data folder of the small models, and the order in which rows are written from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mplug import prompts
from mplug.evaluation.forms import lines_of
from mplug.train.splits import Split
from mplug.train.text.poems import read_poems
from mplug.train.text.rows import TextRow
from mplug_services.cli import main
from mplug_services.cli.eval_text_rows import Asked, in_turns
from small_text_data import write_small_data
from text_models import write_folder

pytestmark = pytest.mark.usefixtures("one_thread")

Output = pytest.CaptureFixture[str]
DRAWN = ["--top-k", "9", "--min-length", "4", "--max-length", "6", "--seed", "3", "--json"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder("gpt3", tmp_path_factory.mktemp("writer"))


# Any: JSON.
def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_command_measures_every_kind_on_held_out_rows(
    data: Path, writer: Path, tmp_path: Path, capsys: Output
) -> None:
    output = tmp_path / "written.jsonl"
    kinds = ["--kind", "poems", "--kind", "fives", "--kind", "couplets"]
    command = ["eval", "text", "--data", str(data), *kinds, "--model", str(writer), "--output", str(output)]
    capsys.readouterr()
    assert main([*command, *DRAWN]) == 0
    poems, fives, couplets = lines(capsys.readouterr().out)
    assert [each["kind"] for each in (poems, fives, couplets)] == ["poems", "fives", "couplets"]
    held_out = [poem for poem in read_poems(data) if poem.split == Split.HELD_OUT]
    assert poems["rows"] == poems["written"] == len(held_out)
    assert poems["form_of_people"] == 100
    assert {"form", "copied_lines", "perplexity"} <= poems.keys()
    assert {"metre", "metre_lines", "perplexity"} <= fives.keys()
    assert {"couplet_good", "couplet_same_length", "couplet_not_copied", "perplexity"} <= couplets.keys()
    written = lines(output.read_text(encoding="utf-8"))
    assert len(written) == poems["rows"] + fives["rows"] + couplets["rows"]
    ((tune, _),) = Counter(poem.tune for poem in held_out).most_common(1)
    one_tune = [each["text"] for each in written if each["source"] == tune]
    assert len(set(one_tune)) == len(one_tune) > 1, "each drawn anew"


def test_poems_go_on_from_lines_that_nobody_learnt(
    data: Path, writer: Path, tmp_path: Path, capsys: Output
) -> None:
    output = tmp_path / "written.jsonl"
    command = ["eval", "text", "--data", str(data), "--kind", "poems", "--openings", "--output", str(output)]
    capsys.readouterr()
    assert main([*command, "--model", str(writer), *DRAWN]) == 0
    (facts,) = lines(capsys.readouterr().out)
    assert facts["form_of_people"] == 100
    for each in lines(output.read_text(encoding="utf-8")):
        opening = lines_of(each["target"])[0] + "，"
        assert each["text"].startswith(opening)
        assert len(each["text"]) > len(opening)


def test_what_is_learnt_of_a_row_is_what_was_not_given() -> None:
    row = TextRow("甲", "一二三，四五六。")
    asked = Asked(row, prompts.poem("一二三，", tune="甲"), "一二三，")
    assert asked.learnt == TextRow("甲\n一二三，", "四五六。")


def test_a_prompt_comes_once_in_a_batch() -> None:
    names = ["a", "b", "a", "c", "", "a", "b"]
    rows = [Asked(TextRow(name, str(number)), name) for number, name in enumerate(names)]
    found = [(turn, [each.row.target for each in some]) for turn, some in in_turns(rows, 2)]
    assert found == [(0, ["0", "1"]), (0, ["3"]), (1, ["2", "6"]), (2, ["5"])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "DATA"], "name them with --kind couplets"),
        (["--data", "DATA", "--kind", "poems", "--known", "FILE"], "leave out --known"),
        (
            ["--data", "DATA", "--kind", "fives", "--openings"],
            "--openings is for --kind poems, not for fives",
        ),
        (["--data", "FILE", "--kind", "fives", "--kind", "titles"], "several are for a folder of data"),
        (["--data", "EMPTY", "--kind", "poems"], r"no text_poem.jsonl"),
    ],
)
def test_what_cannot_be_measured_is_told(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"source": "a", "target": "b"}\n')
    (tmp_path / "empty").mkdir()
    places = {"DATA": data, "FILE": tmp_path / "rows.jsonl", "EMPTY": tmp_path / "empty"}
    words = [str(places.get(word, word)) for word in arguments]
    assert main(["eval", "text", *words, "--model", "gone"]) == 2
    assert message in capsys.readouterr().err
