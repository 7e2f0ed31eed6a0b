"""The emulator itself: planted faults are found, and its layouts are those of the PTX manual."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernel_emulator import EMULATOR, build_planted, environment

pytestmark = pytest.mark.timeout(300)  # the first test waits for the compiler

# By the names of `enum class Fault` in planted.cpp: what must be said.
FAULTS = {
    "kNoBarrier": r"race in shared memory",
    "kNoBarrierAfterWait": r"race in shared memory|was not waited for",
    "kUnorderedSum": r"race in shared memory",
    "kNoWarpSync": r"race in shared memory.*exchange_within_a_warp",
    "kReusedTooEarly": r"race in shared memory|was not waited for",
    "kSharedOverrun": r"heap-buffer-overflow(.|\n)*WRITE of size 4(.|\n)*planted\.cpp",
    "kGlobalOverrun": r"heap-buffer-overflow(.|\n)*WRITE of size 4(.|\n)*planted\.cpp",
    "kGlobalOverread": r"heap-buffer-overflow(.|\n)*READ of size 16(.|\n)*copy_async_16(.|\n)*planted\.cpp",
    "kNoWait": r"is read at multiply.*, but the copy issued at load_tiles.* was not waited for",
    "kOneGroupTooFew": r"is read at multiply.*, but the copy issued at load_tiles.* was not waited for",
    "kOverwrittenCopy": r"is written at load_tiles.* while the copy issued at load_tiles.* is under way",
    "kUnevenBarrier": r"deadlock: 32 threads wait in sync_block .*, 32 have returned",
    "kMissingLane": r"deadlock: .* 31 in an operation of their warp \(shuffle\), 1 have returned",
    "kPartingLanes": r"lanes of one warp part: some are in (shuffle|sync_warp), this one in (?!\1)",
    "kMisalignedRow": r"ldmatrix: lane \d+ gives a row that is not aligned to 16 bytes",
}
UNREPORTED = {"kNone", "kWrongFragment"}
SEEDS = range(4)

# The figures of the PTX manual for mma.m16n8k16 with .f16 and .bf16: which lane holds an element. A quarter of A, and
# half of C, looks like this (rows down, two neighbouring columns to a lane) ...
ROWS_OF_LANES = """
     0  0  1  1  2  2  3  3
     4  4  5  5  6  6  7  7
     8  8  9  9 10 10 11 11
    12 12 13 13 14 14 15 15
    16 16 17 17 18 18 19 19
    20 20 21 21 22 22 23 23
    24 24 25 25 26 26 27 27
    28 28 29 29 30 30 31 31
"""
# ... and half of B like this, two rows to a lane.
COLUMNS_OF_LANES = """
     0  4  8 12 16 20 24 28
     0  4  8 12 16 20 24 28
     1  5  9 13 17 21 25 29
     1  5  9 13 17 21 25 29
     2  6 10 14 18 22 26 30
     2  6 10 14 18 22 26 30
     3  7 11 15 19 23 27 31
     3  7 11 15 19 23 27 31
"""
# Which elements those are, by quarter or half: the first row or column, the first element.
QUARTERS_OF_A = {(0, 0): 0, (8, 0): 2, (0, 8): 4, (8, 8): 6}
HALVES_OF_B = {(0, 0): 0, (8, 0): 2}
HALVES_OF_C = {(0, 0): 0, (8, 0): 2}


def lanes(figure: str) -> list[list[int]]:
    return [[int(lane) for lane in line.split()] for line in figure.strip().splitlines()]


def places(
    figure: str, parts: dict[tuple[int, int], int], *, by_column: bool = False
) -> dict[tuple[int, int], tuple[int, int]]:
    """(lane, element) -> (row, column)."""
    return {
        (lane, first + (row if by_column else column) % 2): (top + row, left + column)
        for (top, left), first in parts.items()
        for row, line in enumerate(lanes(figure))
        for column, lane in enumerate(line)
    }


A = places(ROWS_OF_LANES, QUARTERS_OF_A)
B = places(COLUMNS_OF_LANES, HALVES_OF_B, by_column=True)
C = places(ROWS_OF_LANES, HALVES_OF_C)


def scatter(matrix: Tensor, layout: dict[tuple[int, int], tuple[int, int]]) -> Tensor:
    """Every lane's elements (32, elements)."""
    held = torch.empty(32, len(layout) // 32, dtype=matrix.dtype)
    for (lane, element), place in layout.items():
        held[lane, element] = matrix[place]
    return held


def bytes_of(*tensors: Tensor) -> bytes:
    return b"".join(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors)


@pytest.fixture(scope="module")
def planted() -> Path:
    return build_planted()


def run(program: Path, *arguments: object, given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, env=environment(), check=False)


def fault_names() -> list[str]:
    found = re.search(r"enum class Fault \{(.*?)\}", (EMULATOR / "planted.cpp").read_text(), re.DOTALL)
    assert found is not None
    return re.findall(r"k\w+", found[1])


def some_matrices() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 32, generator=generator).half(), torch.randn(32, 8, generator=generator).half()


def product(program: Path, fault: str, seed: int) -> tuple[Tensor, Tensor]:
    """What a kernel makes of two matrices, and what it should."""
    a, b = some_matrices()
    result = run(program, fault_names().index(fault), seed, given=bytes_of(a, b))
    assert result.returncode == 0, result.stderr.decode()
    return torch.frombuffer(bytearray(result.stdout), dtype=torch.float32).view(
        16, 8
    ), a.double() @ b.double()


def test_every_planted_fault_has_its_test() -> None:
    assert set(fault_names()) == FAULTS.keys() | UNREPORTED


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kernel_that_is_right_passes_under_every_schedule(planted: Path, seed: int) -> None:
    found, wanted = product(planted, "kNone", seed)
    assert (found.double() - wanted).abs().max() < 1e-5
    assert torch.equal(found, product(planted, "kNone", 0)[0])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_under_every_schedule(planted: Path, fault: str) -> None:
    given = bytes_of(*some_matrices())
    for seed in SEEDS:
        result = run(planted, fault_names().index(fault), seed, given=given)
        assert result.returncode != 0
        assert re.search(FAULTS[fault], result.stderr.decode()), result.stderr.decode()


def test_a_planted_wrong_fragment_shows_in_the_product(planted: Path) -> None:
    found, wanted = product(planted, "kWrongFragment", 0)
    assert (found.double() - wanted).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["half", "bf16"])
def test_mma_has_the_manuals_layout(planted: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    # Small whole numbers: every sum is exact.
    a, b = (torch.randint(-8, 9, shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    c = torch.randint(-8, 9, (16, 8), generator=generator).float()
    given = bytes_of(scatter(a, A), scatter(b, B), scatter(c, C))
    result = run(planted, "mma", "half" if dtype == torch.float16 else "bf16", given=given)
    found = torch.frombuffer(bytearray(result.stdout), dtype=torch.float32).view(32, 4)
    assert torch.equal(found, scatter(a.float() @ b.float() + c, C))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_has_the_manuals_layout(planted: Path, count: int, transposed: bool) -> None:
    matrices = torch.arange(count * 64, dtype=torch.int16).view(count, 8, 8)
    result = run(planted, "loaded", count, int(transposed), given=bytes_of(matrices))
    found = torch.frombuffer(bytearray(result.stdout), dtype=torch.int16).view(32, count, 2)
    # Every matrix is handed out like a quarter of A, or its transpose.
    layout = places(ROWS_OF_LANES, {(0, 0): 0})
    for number, matrix in enumerate(matrices):
        assert torch.equal(found[:, number], scatter(matrix.T if transposed else matrix, layout))


def awkward_floats() -> Tensor:
    """All halves and all bfloat16s, what lies midway between neighbours and next to that, and odd ends."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    known = torch.cat([bits.view(torch.float16).float(), bits.view(torch.bfloat16).float()])
    raw = known.view(torch.int32)
    midway = torch.cat([raw + delta for half in (2**12, 2**15) for delta in (half - 1, half, half + 1)])
    random = torch.randint(-(2**31), 2**31, (2**16,), generator=torch.Generator().manual_seed(2)).int()
    return torch.cat([known, midway.view(torch.float32), random.view(torch.float32)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["half", "bf16"])
def test_numbers_are_rounded_to_nearest_even(planted: Path, dtype: torch.dtype) -> None:
    values = awkward_floats()
    result = run(planted, "numbers", "half" if dtype == torch.float16 else "bf16", given=bytes_of(values))
    found = torch.frombuffer(bytearray(result.stdout), dtype=torch.int16).view(-1, 3)
    rounded, back = found[:, 0].contiguous(), found[:, 1:].contiguous().view(torch.float32).squeeze(1)
    wanted = values.to(dtype)
    number = ~wanted.isnan()
    assert torch.equal(rounded[number], wanted.view(torch.int16)[number])
    assert torch.equal(back[number], wanted.float()[number])
    assert rounded.view(dtype)[~number].isnan().all()
    assert back[~number].isnan().all()
