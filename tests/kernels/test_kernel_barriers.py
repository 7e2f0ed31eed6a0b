"""Barriers and waits of the kernels: none is missing, and the emulator would tell if one were.

The cases are those that `make gpu` has NVIDIA's checker watch. They run with the sources as they are, and with every
barrier and every wait left out alone.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench.data import draw
from bench.shapes import Check, checks
from kernel_emulator import CSRC, Emulator, KernelFaultError, Problem, build_cases
from mplug_kernels.variants import Variant

pytestmark = pytest.mark.timeout(600)  # the first test waits for the compiler

HEADERS = {
    "xattn_kv": Variant.KV,
    "xattn_absorbed_two": Variant.ABSORBED_TWO,
    "xattn_absorbed_one": Variant.ABSORBED_ONE,
}
CALL = re.compile(r"\b(sync_block|wait_copies)(?:<[^;]*>)?\(\);")
FUNCTION = re.compile(r"^XATTN_(?:DEVICE|KERNEL) (?:.*XATTN_BOUNDS\([^)]*\) )?.*?(\w+)\(", re.MULTILINE)
FAULT = r"race in shared memory|was not waited for|is under way|AddressSanitizer"
SPARE = {
    # The offsets that statistics replace were last read two barriers before, and weights come two barriers after.
    "two_scores_block-sync_block-3",
    # Behind the loops only groups without a copy are left; with nothing to attend to, what no one reads.
    "two_scores_block-wait_copies-2",
    "two_mix_block-wait_copies-2",
    "absorbed_one_kernel-wait_copies-2",
}
"""What could be left out: no schedule makes a race of it."""

LEFT_OUT = "XATTN_LEFT_OUT"
INCLUDE = '#include "emulator.h"\n'
ASKS = f"""\
#include <cstdlib>
namespace xattn {{
inline bool kept(int call) {{
  static const int left_out = std::atoi(std::getenv("{LEFT_OUT}"));
  return call != left_out;
}}
}}  // namespace xattn
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A barrier or a wait."""

    number: int
    """Among all; what the programs of `asking` are told."""
    variant: Variant
    name: str
    """Its function, what it is, and which of its kind there."""

    def __str__(self) -> str:
        return self.name


def find_calls() -> list[Call]:
    """All, in the order of headers and lines."""
    found: list[Call] = []
    for header, variant in HEADERS.items():
        text, seen = (CSRC / f"{header}.cuh").read_text(), Counter[str]()
        for match in CALL.finditer(text):
            function = [before[1] for before in FUNCTION.finditer(text, 0, match.start())][-1]
            kind = f"{function}-{match[1]}"
            seen[kind] += 1
            found.append(Call(len(found), variant, f"{kind}-{seen[kind]}"))
    return found


CALLS = find_calls()


def watched(variant: Variant) -> list[Check]:
    """What NVIDIA's checker sees of a kernel: `tasks.sanitizer_tasks`."""
    return [case for case in checks(variant, tiny=True) if case.kind in ("white", "outliers")]


def is_long(case: Check) -> bool:
    """All but the smallest shape, and the one that has everything in one type."""
    shape = case.shape
    return shape.name != "tiny-one" and (shape.name, shape.dtype) != ("tiny-ragged", "float16")


CASES = [
    pytest.param(case, id=case.key, marks=[pytest.mark.long] * is_long(case))
    for variant in Variant
    for case in watched(variant)
]


def problem_of(case: Check, seed: int) -> Problem:
    """A case with data, and where it is ragged with images, of a seed."""
    inputs = draw(case.shape, case.kind, torch.device("cpu"), seed)
    kv = case.variant is Variant.KV
    q = inputs.query if kv else inputs.folded
    pools = (inputs.key, inputs.value) if kv else (inputs.memory,)
    image_index, kv_lens = tuple(inputs.image_index.tolist()), tuple(inputs.kv_lens.tolist())
    return Problem(case.variant.value, q, pools, image_index, kv_lens, case.shape.scale)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(build_cases()) as running:
        yield running


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of kernels whose barriers and waits each ask first whether they are to be left out."""
    folder = tmp_path_factory.mktemp("asking")
    shutil.copytree(CSRC, folder / "csrc")
    numbers = iter(range(len(CALLS)))
    for header in HEADERS:
        path = folder / "csrc" / f"{header}.cuh"
        path.write_text(CALL.sub(lambda call: f"if (kept({next(numbers)})) {call[0]}", path.read_text()))
    primitives = folder / "csrc" / "primitives.cuh"
    text = primitives.read_text()
    assert text.count(INCLUDE) == 1
    primitives.write_text(text.replace(INCLUDE, INCLUDE + ASKS))
    return build_cases(folder / "csrc", folder / "cache")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("one_thread")
@torch.inference_mode()
def test_what_nvidia_s_checker_watches_has_no_race_here(emulator: Emulator, case: Check) -> None:
    for seed in range(2 if case.shape.ragged else 1):
        problem = problem_of(case, seed)
        for splits in sorted({1, case.splits}):
            emulator.attend(problem, splits=splits, seed=seed)


def test_what_can_be_spared_is_there() -> None:
    assert {call.name for call in CALLS} >= SPARE
    assert len({call.name for call in CALLS}) == len(CALLS)


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.usefixtures("one_thread")
@torch.inference_mode()
def test_a_barrier_or_wait_left_out_alone_is_found_out(
    asking: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEFT_OUT, str(call.number))
    with Emulator(asking) as emulator:

        def run_all() -> None:
            # Of the ragged shape the first seed has 72 rows of an image, the second 54: two products' tiles of both
            # heights.
            for case in (case for case in watched(call.variant) if case.shape.dtype == "float16"):
                for seed in range(2 if case.shape.ragged else 1):
                    emulator.attend(problem_of(case, seed), splits=case.splits, seed=seed)

        if call.name in SPARE:
            run_all()
        else:
            with pytest.raises(KernelFaultError, match=FAULT):
                run_all()
