"""The CUDA kernels' very source, run by the emulator under sanitizers and drawn schedules, against float64."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernel_cases import DTYPES, NUM_CASES, Case, draw, exact, make_problem, plain
from kernel_emulator import CSRC, Emulator, KernelFaultError, Problem, build_cases

pytestmark = pytest.mark.timeout(300)  # the first test waits for the compiler

# Every form, type and kind of data is among the first fifth.
CASES = [
    pytest.param(draw(n), id=str(draw(n)), marks=[pytest.mark.long] * (n >= NUM_CASES // 5))
    for n in range(NUM_CASES)
]
# Of each form and type, with splits of several, one and no key tiles.
SPLIT_CASES = [draw(number) for number in (0, 1, 2, 3, 10, 5)]
LSE_TOLERANCE = 1e-4  # scores of peaky cases reach some hundreds, in float32


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(build_cases()) as running:
        yield running


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("one_thread")
@torch.inference_mode()
def test_a_kernel_errs_no_more_than_plain_torch(emulator: Emulator, case: Case) -> None:
    problem = make_problem(case)
    out, lse = emulator.attend(problem, seed=case.number, architecture=case.architecture)
    check_accuracy(out, lse, problem)

    again = emulator.attend(problem, seed=case.number + NUM_CASES, architecture=case.architecture)
    assert same_bits(out, again[0])
    assert same_bits(lse, again[1])

    split = emulator.attend(problem, splits=case.splits, seed=case.number, architecture=case.architecture)
    check_agreement((out, lse), split)


@pytest.mark.parametrize("case", SPLIT_CASES, ids=str)
@pytest.mark.usefixtures("one_thread")
@torch.inference_mode()
def test_one_to_eight_splits_agree(emulator: Emulator, case: Case) -> None:
    problem = make_problem(case)
    results = [emulator.attend(problem, splits=splits, seed=splits) for splits in range(1, 9)]
    for result in results:
        check_accuracy(*result, problem)
        check_agreement(results[0], result)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32], ids=str)
@torch.inference_mode()
def test_results_over_two_halves_of_the_keys_merge(emulator: Emulator, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, width = 37, 24
    outs = [torch.randn(rows, width, generator=generator).to(dtype) for _ in range(2)]
    lses = [4 * torch.randn(rows, generator=generator) for _ in range(2)]
    lses[0][:5] = lses[1][3:8] = -torch.inf  # one side without keys, and three rows with none at all
    out, lse = emulator.merge(outs[0], lses[0], outs[1], lses[1])
    wanted_lse = torch.logaddexp(lses[0].double(), lses[1].double())
    shares = [(x.double() - wanted_lse).exp().nan_to_num(0)[:, None] for x in lses]
    wanted = shares[0] * outs[0].double() + shares[1] * outs[1].double()
    assert (out.double() - wanted).abs().max() <= 4 * torch.finfo(dtype).eps
    assert torch.equal(lse.isneginf(), wanted_lse.isneginf())
    assert torch.allclose(lse.double(), wanted_lse, atol=2e-6)


@pytest.mark.parametrize("form", ["absorbed_two", "absorbed_one"])
def test_a_width_without_an_instance_is_refused(emulator: Emulator, form: str) -> None:
    q, x = torch.zeros(1, 1, 1, 512).half(), torch.zeros(1, 3, 512).half()
    with pytest.raises(ValueError, match="refused with status 1"):
        emulator.attend(Problem(form, q, (x,), (0,), (3,), 1.0))


@pytest.mark.long
@pytest.mark.parametrize("removed", [r"\bsync_block\(\);", r"\bwait_copies<[^;]*>\(\);"])
@torch.inference_mode()
def test_kernels_without_their_barriers_or_waits_are_found_out(tmp_path: Path, removed: str) -> None:
    shutil.copytree(CSRC, tmp_path / "csrc")
    for path in (tmp_path / "csrc").glob("xattn_*.cuh"):
        path.write_text(re.sub(removed, ";", path.read_text()))
    with Emulator(build_cases(tmp_path / "csrc", tmp_path / "cache")) as emulator:
        for case in SPLIT_CASES:
            with pytest.raises(KernelFaultError, match=r"race in shared memory|was not waited for"):
                emulator.attend(make_problem(case))


def check_accuracy(out: Tensor, lse: Tensor, problem: Problem) -> None:
    wanted, wanted_lse = exact(problem)
    assert not out.isnan().any()
    # What rounding the exact result costs is granted: with one key, plain torch makes no error at all.
    allowed = [plain(problem)[0], wanted.to(out.dtype)]
    for size in (torch.linalg.vector_norm, max_norm):
        granted = max(float(size(x.double() - wanted)) for x in allowed)
        assert float(size(out.double() - wanted)) <= 2 * granted
    empty = wanted_lse.isneginf()
    assert torch.equal(lse.isneginf(), empty)
    assert (out[empty] == 0).all()
    assert ((lse.double() - wanted_lse)[~empty].abs() <= LSE_TOLERANCE).all()


def max_norm(x: Tensor) -> Tensor:
    return x.abs().max()


def check_agreement(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    """Within one unit in the last place; where terms cancelled, in that of the row's root mean square.

    Scores less their maximum are rounded, so that once in some thousand times a weight is, too, the other way.
    """
    first, second = one[0].float(), other[0].float()
    typical = torch.maximum(
        first.square().mean(-1, keepdim=True), second.square().mean(-1, keepdim=True)
    ).sqrt()
    scale = torch.maximum(torch.maximum(first.abs(), second.abs()), typical)
    assert ((first - second).abs() <= unit_in_last_place(scale, one[0].dtype)).all()
    assert torch.equal(one[1].isneginf(), other[1].isneginf())
    assert torch.allclose(one[1], other[1], atol=1e-5, rtol=1e-6)


def unit_in_last_place(values: Tensor, dtype: torch.dtype) -> Tensor:
    limits = torch.finfo(dtype)
    exponent = torch.frexp(values).exponent - 1
    return torch.ldexp(torch.full_like(values, limits.eps), exponent).clamp_min(
        limits.smallest_normal * limits.eps
    )


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))
