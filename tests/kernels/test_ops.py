"""The operators on a CPU: against the formula in float64, their gradients, and torch's own checks of operators."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mplug_kernels import library, ops
from mplug_kernels.planner import Tiling

OPERATORS = torch.ops.mplug_kernels
CPU = torch.device("cpu")
DOUBLE = torch.float64


def make_plan(
    image_index: list[int], kv_lens: list[int], *, tokens: int, heads: int, splits: int = 2
) -> ops.Plan:
    return ops.make_plan(
        torch.tensor(image_index, dtype=torch.int32),
        torch.tensor(kv_lens, dtype=torch.int32),
        tokens=tokens,
        heads=heads,
        tiling=Tiling(row_tile=4, key_tile=8, splits=splits),
        device=CPU,
    )


def formula(
    q_SLHK: Tensor, k_INHK: Tensor, v_INHK: Tensor, image_index: list[int], kv_lens: list[int], scale: float
) -> tuple[Tensor, Tensor]:
    """One sequence, one head at a time."""
    outs, lses = [], []
    for sequence, image in enumerate(image_index):
        keys = kv_lens[image]
        for head in range(q_SLHK.shape[2]):
            score_LN = q_SLHK[sequence, :, head] @ k_INHK[image, :keys, head].T * scale
            weight_LN = score_LN.softmax(1) if keys else score_LN
            outs.append(weight_LN @ v_INHK[image, :keys, head])
            lses.append(score_LN.logsumexp(1))
    shape = (q_SLHK.shape[0], q_SLHK.shape[2], q_SLHK.shape[1])
    return torch.stack(outs).view(*shape, -1).transpose(1, 2), torch.stack(lses).view(shape).transpose(1, 2)


def random(*shape: int, seed: int, dtype: torch.dtype = DOUBLE, grad: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return x.to(dtype).requires_grad_(grad)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    kv_lens = draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
    return {
        "kv_lens": kv_lens,
        "image_index": draw(st.lists(st.integers(0, len(kv_lens) - 1), min_size=1, max_size=5)),
        "tokens": draw(st.integers(1, 4)),
        "heads": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**20)),
    }


def kv_call(call: dict[str, Any], *, grad: bool = False) -> tuple[Tensor, Tensor, Tensor, ops.Plan]:
    sequences, images = len(call["image_index"]), len(call["kv_lens"])
    rows = max(1, *call["kv_lens"])
    shape = (call["heads"], 5)
    q = random(sequences, call["tokens"], *shape, seed=call["seed"], grad=grad)
    k = random(images, rows, *shape, seed=call["seed"] + 1, grad=grad)
    v = random(images, rows, *shape, seed=call["seed"] + 2, grad=grad)
    plan = make_plan(call["image_index"], call["kv_lens"], tokens=call["tokens"], heads=call["heads"])
    return q, k, v, plan


def absorbed_call(call: dict[str, Any], *, grad: bool = False) -> tuple[Tensor, Tensor, ops.Plan]:
    rows = max(1, *call["kv_lens"])
    q = random(len(call["image_index"]), call["tokens"], call["heads"], 7, seed=call["seed"], grad=grad)
    x = random(len(call["kv_lens"]), rows, 7, seed=call["seed"] + 1, grad=grad)
    rows_of_sequence = call["tokens"] * call["heads"]
    return q, x, make_plan(call["image_index"], call["kv_lens"], tokens=rows_of_sequence, heads=1)


@settings(max_examples=60, deadline=None)
@given(call=calls())
def test_attention_to_keys_is_the_formula(call: dict[str, Any]) -> None:
    q, k, v, plan = kv_call(call)
    out, lse = ops.xattn_kv(q, k, v, plan, 0.3)
    expected, expected_lse = formula(q, k, v, call["image_index"], call["kv_lens"], 0.3)
    assert torch.allclose(out, expected, atol=1e-12)
    assert lse.dtype == torch.float32
    assert torch.allclose(lse.double(), expected_lse, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(call=calls(), form=st.sampled_from([ops.TWO_PASSES, ops.ONE_PASS]))
def test_absorbed_attention_is_the_formula(call: dict[str, Any], form: int) -> None:
    q, x, plan = absorbed_call(call)
    out, lse = ops.xattn_absorbed(q, x, plan, 0.3, form)
    every_head = x[:, :, None].expand(-1, -1, call["heads"], -1)
    expected, expected_lse = formula(q, every_head, every_head, call["image_index"], call["kv_lens"], 0.3)
    assert torch.allclose(out, expected, atol=1e-12)
    assert torch.allclose(lse.double(), expected_lse, atol=1e-5)


def gradients(
    run: Callable[..., tuple[Tensor, Tensor]], leaves: tuple[Tensor, ...], seed: int
) -> tuple[Tensor, ...]:
    """Of both results at once, each in a direction of its own; who has no key has no log-sum-exp to differentiate."""
    out, lse = run(*leaves)
    out_direction, lse_direction = random(*out.shape, seed=seed), random(*lse.shape, seed=seed + 1)
    lse = lse.double().where(lse.isfinite(), 0.0)
    return torch.autograd.grad((out * out_direction).sum() + (lse * lse_direction).sum(), leaves)


@settings(max_examples=60, deadline=None)
@given(call=calls())
def test_gradients_of_attention_to_keys_are_those_of_the_formula(call: dict[str, Any]) -> None:
    *leaves, plan = kv_call(call, grad=True)
    ours = gradients(lambda q, k, v: ops.xattn_kv(q, k, v, plan, 0.3), tuple(leaves), call["seed"])
    theirs = gradients(
        lambda q, k, v: formula(q, k, v, call["image_index"], call["kv_lens"], 0.3),
        tuple(leaves),
        call["seed"],
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(call=calls())
def test_gradients_of_absorbed_attention_are_those_of_the_formula(call: dict[str, Any]) -> None:
    *leaves, plan = absorbed_call(call, grad=True)

    def expected(q: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        every_head = x[:, :, None].expand(-1, -1, call["heads"], -1)
        return formula(q, every_head, every_head, call["image_index"], call["kv_lens"], 0.3)

    ours = gradients(lambda q, x: ops.xattn_absorbed(q, x, plan, 0.3), tuple(leaves), call["seed"])
    theirs = gradients(expected, tuple(leaves), call["seed"])
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(parts=st.integers(2, 5), rows=st.integers(1, 6), seed=st.integers(0, 2**20), empty=st.booleans())
def test_merging_the_parts_is_attending_to_the_whole(parts: int, rows: int, seed: int, empty: bool) -> None:
    q, x = random(1, rows, 1, 6, seed=seed), random(1, 4 * parts, 6, seed=seed + 1)
    whole = ops.xattn_absorbed(q, x, make_plan([0], [4 * parts], tokens=rows, heads=1), 0.5)
    lengths = [4] * parts + ([0] if empty else [])
    out, lse = torch.zeros_like(q), torch.full((1, rows, 1), -math.inf)
    for number, length in enumerate(lengths):
        part = x[:, 4 * number : 4 * number + 4] if length else x[:, :4]
        plan = make_plan([0], [length], tokens=rows, heads=1)
        out, lse = ops.merge_states(out, lse, *ops.xattn_absorbed(q, part, plan, 0.5))
    assert torch.allclose(out, whole[0], atol=1e-6)
    assert torch.allclose(lse, whole[1], atol=1e-5)


def test_merging_nothing_with_nothing_is_nothing() -> None:
    nothing = torch.zeros(3, 4), torch.full((3,), -math.inf)
    out, lse = ops.merge_states(*nothing, *nothing)
    assert torch.equal(out, torch.zeros(3, 4))
    assert lse.isneginf().all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), rows=st.integers(1, 5))
def test_gradients_of_merging_are_those_of_the_formula(seed: int, rows: int) -> None:
    outs = [random(rows, 3, seed=seed + number, grad=True) for number in range(2)]
    lses = [random(rows, seed=seed + 2 + number, dtype=torch.float32, grad=True) for number in range(2)]

    def expected(out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.stack([lse1, lse2]).double().softmax(0)[..., None]
        return weights[0] * out1 + weights[1] * out2, torch.stack([lse1, lse2]).logsumexp(0)

    leaves = (outs[0], lses[0], outs[1], lses[1])
    ours = gradients(ops.merge_states, leaves, seed)
    theirs = gradients(expected, leaves, seed)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lesser_types_err_by_their_rounding_alone(dtype: torch.dtype) -> None:
    call = {"kv_lens": [12, 0, 7], "image_index": [2, 0, 1, 0], "tokens": 3, "heads": 2, "seed": 5}
    q, k, v, plan = kv_call(call)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    out, _ = ops.xattn_kv(q, k, v, plan, 0.3)
    expected, _ = ops.xattn_kv(q.double(), k.double(), v.double(), plan, 0.3)
    assert out.dtype == dtype
    assert (out.double() - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()


SAMPLE = {"kv_lens": [5, 7, 0], "image_index": [1, 0, 2, 1], "tokens": 2, "heads": 3, "seed": 0}


def operator_calls() -> dict[str, tuple[Any, ...]]:
    q, k, v, plan = kv_call(SAMPLE, grad=True)
    table = (plan.items, plan.row_sequence, plan.kv_lens)
    wide, x, flat_plan = absorbed_call(SAMPLE, grad=True)
    flat_table = (flat_plan.items, flat_plan.row_sequence, flat_plan.kv_lens)
    out, lse = random(4, 2, seed=1, grad=True), random(4, seed=2, dtype=torch.float32, grad=True)
    integers = torch.tensor(SAMPLE["image_index"], dtype=torch.int32), plan.kv_lens
    return {
        "xattn_kv": (q, k, v, *table, 0.3, plan.splits),
        "xattn_absorbed": (wide, x, *flat_table, 0.3, flat_plan.splits, ops.ONE_PASS),
        "merge_states": (out, lse, out.detach().clone(), lse.detach().clone()),
        "xattn_plan": (*integers, 2, 3, 4, 8, 2),
    }


@pytest.mark.parametrize("name", ["xattn_kv", "xattn_absorbed", "merge_states", "xattn_plan"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of torch's own check
def test_torch_accepts_the_operator(name: str) -> None:
    results = torch.library.opcheck(getattr(OPERATORS, name).default, operator_calls()[name])
    assert set(results.values()) == {"SUCCESS"}


def test_schemas_are_those_that_the_library_is_compiled_with() -> None:
    text = (Path(__file__).parents[2] / "kernels" / "csrc" / "binding.cpp").read_text()
    compiled = text.replace('"\n      "', "")
    for name, schema in ops.SCHEMAS.items():
        assert f'"{name}{schema}"' in compiled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda q, k, v: (q[0], k, v), r"q is \(2, 3, 5\)"),
        (lambda q, k, v: (q, k[..., :4], v), r"k \(3, 7, 3, 4\), v \(3, 7, 3, 5\)"),
        (lambda q, k, v: (q, k[:, :, :2], v[:, :, :2]), "they must be"),
    ],
)
def test_shapes_that_disagree_are_named(
    arguments: Callable[..., tuple[Tensor, Tensor, Tensor]], message: str
) -> None:
    q, k, v, plan = kv_call(SAMPLE)
    with pytest.raises(ValueError, match=message):
        ops.xattn_kv(*arguments(q, k, v), plan, 0.3)


def test_a_form_that_is_none_is_named() -> None:
    q, x, plan = absorbed_call(SAMPLE)
    with pytest.raises(ValueError, match="form is 2; it must be 0 or 1"):
        ops.xattn_absorbed(q, x, plan, 0.3, 2)


def loaded_in_a_new_process(variable: str) -> str:
    """What a program says that runs every operator, with a library named (or none)."""
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import test_ops; from mplug_kernels import ops\n"
        "for name, arguments in test_ops.operator_calls().items():\n"
        "    getattr(torch.ops.mplug_kernels, name)(*arguments)\n"
        "print(ops.LIBRARY.loaded, ops.LIBRARY.reason)"
    )
    environment = {**os.environ, library.VARIABLE: variable}
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_without_a_library_the_operators_are_there() -> None:
    assert loaded_in_a_new_process("").startswith(f"False {library.VARIABLE} is empty")


def test_a_library_that_cannot_be_loaded_costs_a_warning(tmp_path: Path) -> None:
    broken = tmp_path / "libbroken.so"
    broken.write_text("no library")
    said = loaded_in_a_new_process(str(broken))
    assert said.startswith("False")
    assert "plain torch runs instead" in said


def test_a_library_says_what_it_was_compiled_from(tmp_path: Path) -> None:
    path = tmp_path / "libkernels.so"
    assert library.hash_of(path) is None
    library.mark(path, "abc")
    assert library.hash_of(path) == "abc"
