"""The page of the kernels is what their compile table and their results say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench import page
from bench.compile_gate import TABLE
from bench.roofline import absorbed_work, cached_work
from bench.shapes import TIMED, Shape
from mplug_kernels.results import Run
from mplug_kernels.variants import Variant

ROWS = json.loads(TABLE.read_text())["rows"]


def test_the_page_is_current() -> None:
    assert page.PAGE.read_text() == page.page(), "PYTHONPATH=kernels python -m bench.page writes it anew"


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("shape", TIMED[: page.MODELLED], ids=lambda shape: shape.name)
def test_no_kernel_is_modelled_to_beat_the_floor(variant: Variant, shape: Shape) -> None:
    work = absorbed_work(shape) if variant.absorbed else cached_work(shape)
    assert page.modelled(variant, shape, page.A100, blocks=1) > page.floor(work, page.A100)


@pytest.mark.parametrize("variant", Variant)
def test_eight_times_the_images_take_longer_and_at_most_eight_times_as_long(variant: Variant) -> None:
    shape = TIMED[0]
    one, eight = (
        page.modelled(variant, replace(shape, images=count), page.A100, blocks=1) for count in (64, 512)
    )
    assert one < eight <= 8 * one


def test_without_a_run_nothing_is_calibrated() -> None:
    assert page.calibration(Variant.KV, ROWS, []) == 1


def test_what_the_checker_found_is_told() -> None:
    records = [
        {"key": "sanitize:memcheck:kv", "checked": ["a", "b"], "passed": True},
        {
            "key": "sanitize:racecheck",
            "checked": ["a"],
            "passed": False,
            "end": "exit status 86; === 1 hazard",
        },
        {
            "key": "sanitize:racecheck:kv",
            "checked": [],
            "passed": False,
            "faults": ["Race at kernel", "1 hazard"],
        },
        {"key": "sanitize:synccheck:kv", "skipped": "no GPU"},
    ]
    told = "\n".join(page._findings([Run("h100.json", {"sanitizer": records})], None))
    assert "racecheck of no kernel by name, `exit status 86; 1 hazard`; 1 of 2 cases came back" in told
    assert "racecheck of kv, `Race at kernel; 1 hazard`; 0 of 2 cases came back" in told
    assert told.count("\n- ") == 2
    assert "Nothing more is known." in told


def test_where_the_checker_found_nothing_there_is_nothing_to_tell() -> None:
    record = {"key": "sanitize:memcheck:kv", "checked": ["a"], "passed": True}
    assert page._findings([Run("h100.json", {"sanitizer": [record]})], "what was read") == []
