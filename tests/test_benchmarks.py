"""What the benchmarks are measured and written with."""

from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import resolution
from benchmarks.memory import Memory, measure_memory
from benchmarks.page import replace_section, table
from benchmarks.rounds import Timings, interleave


def test_contenders_take_turns() -> None:
    ran: list[str] = []
    timings = interleave({name: partial(ran.append, name) for name in "ab"}, rounds=2)
    assert ran == ["a", "b", "a", "b", "b", "a"]
    assert [len(seconds) for seconds in timings.seconds.values()] == [2, 2]


def test_a_speedup_is_of_minima_and_of_medians() -> None:
    ratio = Timings({"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 8.0, 9.0]}).speedup("ours", "theirs")
    assert (ratio.of_minima, ratio.of_medians, str(ratio)) == (3.0, 4.0, "3.00 (4.00)")


def test_only_its_section_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- begin one -->\nold\n<!-- end one -->\nbelow\n")
    replace_section(page, "one", table(("a",), [("\\1",)]))
    assert page.read_text() == (
        "above\n<!-- begin one -->\n| a |\n| --- |\n| \\1 |\n<!-- end one -->\nbelow\n"
    )
    with pytest.raises(ValueError, match="no section <!-- begin two -->"):
        replace_section(page, "two", "text")


def test_memory_is_what_was_held_at_once_and_the_largest_piece_of_it() -> None:
    def run() -> None:
        first = torch.empty(300, dtype=torch.uint8)
        torch.empty(2000, dtype=torch.uint8)
        second = torch.empty(1000, dtype=torch.uint8)
        del first, second

    assert measure_memory(run) == Memory(peak=2300, largest=2000)


def test_a_section_of_small_shapes_is_written() -> None:
    text = resolution.measure(resolution.SMALL)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[-2:]]
    assert [row[:3] for row in rows] == [["64", "17", "1.00"], ["128", "65", "3.82"]]
    assert [row[3:5] for row in rows[:1]] == [["1.00 (1.00)"] * 2]
    assert float(rows[0][5]) < float(rows[1][5])
