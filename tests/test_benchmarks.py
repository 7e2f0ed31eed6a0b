"""What the benchmarks are measured and written with."""

from functools import partial
from pathlib import Path

import pytest

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
