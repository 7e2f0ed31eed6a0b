"""What every kernel costs on every architecture, as committed: of these sources, and within its budget."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import compile_gate
from mplug_kernels import build
from mplug_kernels.variants import WIDTHS

TABLE: dict[str, Any] = json.loads(compile_gate.TABLE.read_text())


def test_the_table_is_of_these_sources() -> None:
    assert TABLE["source_hash"] == build.source_hash(), "run `make kernel-table` and commit"


def test_nothing_spills_and_everything_fits() -> None:
    assert compile_gate.problems(TABLE) == []


def test_every_kernel_is_there_in_every_type_for_every_architecture() -> None:
    kernels = {(row["kernel"], row["architecture"]) for row in TABLE["rows"]}
    assert {architecture for _, architecture in kernels} == set(build.ARCHITECTURES)
    for architecture in build.ARCHITECTURES:
        for dtype in ("half", "bf16"):
            assert (f"xattn_kv_kernel<{dtype}>", architecture) in kernels
            for width in WIDTHS:
                for name in ("absorbed_scores_kernel", "absorbed_mix_kernel"):
                    assert (f"{name}<{dtype}, {width}>", architecture) in kernels
                one = re.compile(rf"absorbed_one_kernel<{dtype}, OneShape<{width}, ")
                assert any(one.match(kernel) and of == architecture for kernel, of in kernels)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"spilled_bytes": 12}, "spills 12 bytes"),
        ({"kernel": "xattn_kv_kernel<other>", "blocks": 0}, "xattn_kv_kernel<other> on sm_80 does not fit"),
    ],
)
def test_what_breaks_the_budget_is_named(change: dict[str, Any], problem: str) -> None:
    table = deepcopy(TABLE)
    table["rows"][0] |= {"architecture": 80, **change}
    assert any(problem in found for found in compile_gate.problems(table))


def test_a_smaller_shape_stands_in_for_one_that_does_not_fit() -> None:
    row = {"architecture": 80, "spilled_bytes": 0}
    large = {"kernel": "absorbed_one_kernel<half, OneShape<768, 32, 2>>", "blocks": 0} | row
    small = {"kernel": "absorbed_one_kernel<half, OneShape<768, 16, 3>>", "blocks": 1} | row
    other = {"kernel": "absorbed_one_kernel<half, OneShape<384, 16, 3>>", "blocks": 1} | row
    assert compile_gate.problems({"rows": [large, small]}) == []
    assert len(compile_gate.problems({"rows": [large, other]})) == 1


@pytest.mark.parametrize(
    ("architecture", "registers", "threads", "shared", "blocks"),
    [
        (90, 32, 128, 0, 16),  # threads
        (90, 128, 128, 0, 4),  # registers
        (90, 255, 256, 0, 1),
        (90, 32, 128, 100 * 1024, 2),  # shared memory
        (80, 32, 128, 100 * 1024, 1),
        (80, 32, 128, 164 * 1024, 0),
    ],
)
def test_blocks_side_by_side(
    architecture: int, registers: int, threads: int, shared: int, blocks: int
) -> None:
    assert compile_gate.blocks_side_by_side(architecture, registers, threads, shared) == blocks


@given(
    registers=st.integers(16, 254), threads=st.sampled_from([32, 128, 256]), shared=st.integers(0, 100_000)
)
def test_more_of_anything_never_lets_more_blocks_in(registers: int, threads: int, shared: int) -> None:
    now = compile_gate.blocks_side_by_side(90, registers, threads, shared)
    assert compile_gate.blocks_side_by_side(90, registers + 1, threads, shared) <= now
    assert compile_gate.blocks_side_by_side(90, registers, 2 * threads, shared) <= now
    assert compile_gate.blocks_side_by_side(90, registers, threads, shared + 1000) <= now


@pytest.mark.long
@pytest.mark.timeout(600)
def test_compiling_anew_gives_the_table() -> None:
    try:
        build.find_nvcc()
    except build.BuildError as error:
        pytest.skip(str(error))
    measured = compile_gate.measure()
    if measured["nvcc"] != TABLE["nvcc"]:
        pytest.skip(f"the table is of nvcc {TABLE['nvcc']}, here is {measured['nvcc']}")
    assert measured["rows"] == TABLE["rows"]
