"""A user's rows: what is read, and which of them checkpoints are chosen by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mplug.errors import MplugError
from mplug.train.config import override
from mplug.train.splits import Split
from mplug.train.text.config import TextRunConfig, finetune_text
from mplug.train.text.rows import TextRow, TextRows, held_out, read_rows


# Any: JSON.
def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def config(*settings: str) -> TextRunConfig:
    return override(finetune_text(), settings)


def bare(rows: Sequence[TextRow]) -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in rows]


def read(tmp_path: Path, rows: Sequence[dict[str, Any]], *settings: str) -> TextRows:
    return read_rows(config(*settings), [str(write(tmp_path / "rows.jsonl", rows))])


def test_a_row_has_a_source_and_a_target_or_a_text(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        [
            {"source": "a", "target": "b"},
            {"text": "c", "summary": "d"},
            {"text": "e"},
            {"text": "f", "split": "dev"},
        ],
    )
    assert bare(rows.train) == [("a", "b"), ("c", "d"), ("", "e")]
    assert bare(rows.dev) == [("", "f")]
    assert "line 2" in rows.train[1].origin


def test_csv_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("source,target,split\na,b,train\nc,d,dev\n")
    rows = read_rows(config(), [str(tmp_path / "rows.csv")])
    assert (bare(rows.train), bare(rows.dev)) == ([("a", "b")], [("c", "d")])


def test_without_a_split_a_share_is_held_out_and_equal_sources_stay_together(tmp_path: Path) -> None:
    rows = [{"source": f"{number % 300}", "target": f"{number}"} for number in range(600)]
    parted = read(tmp_path, rows, "held_out_percent=20")
    assert 60 < len(parted.dev) < 180
    assert not {row.source for row in parted.dev} & {row.source for row in parted.train}
    assert parted == read(tmp_path, rows, "held_out_percent=20")


def test_a_test_split_is_never_seen(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "split": "test"}, {"text": "c", "split": "val"}]
    parted = read(tmp_path, rows, "num_dev_rows=0")
    assert (bare(parted.train), bare(parted.dev)) == ([("", "a")], [("", "c")])


def test_a_file_of_dev_rows_takes_nothing_from_the_data(tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.jsonl", [{"text": "z"}])
    parted = read(tmp_path, [{"text": str(number)} for number in range(20)], f"dev={dev}")
    assert len(parted.train) == 20
    assert bare(parted.dev) == [("", "z")]


def test_parts_have_weights(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"text": "a"}, {"text": "b", "split": "dev"}])
    two = write(tmp_path / "two.jsonl", [{"text": "c"}])
    parted = read_rows(config(), [f"{one}=0.5", str(two)])
    assert [(row.target, row.weight) for row in parted.train] == [("a", 0.5), ("c", 1.0)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"target": "b"}], r"line 1, field 'text'.*'text' or 'source'"),
        ([{"source": "a", "target": 1.5}], r"line 1, field 'target'"),
        ([{"text": "a", "split": "dev"}], "no rows to train on"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(MplugError, match=said):
        read(tmp_path, rows)


def test_nothing_to_choose_by_is_told(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match="--set dev=FILE"):
        read(tmp_path, [{"text": "a"}], "held_out_percent=0")


def test_a_tenth_is_for_the_test_and_a_twentieth_for_choosing() -> None:
    found = Counter(held_out(str(number)) for number in range(20_000))
    assert found[Split.HELD_OUT] == pytest.approx(2000, rel=0.1)
    assert found[Split.DEV] == pytest.approx(1000, rel=0.1)
    assert held_out("春") == held_out("春")
