"""Is a kernel right: against float64, on outputs that were poisoned, twice the same, and whatever the splits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.data import Inputs, draw
from bench.shapes import Check
from mplug_kernels import ops, plain
from mplug_kernels.variants import Variant

FACTOR = 2.0
"""Errors may be so many times those of plain torch in the same type."""
LSE_ABSOLUTE, LSE_RELATIVE = 1e-3, 1e-5
"""Largest error of a log-sum-exp: so much, and so much of the largest."""
ULPS = 1.0 + 1e-6
"""Largest difference between split counts, in units of the last place of a row's largest element; and a little, since
exp2 of float64 is not exact on a GPU."""

Result = tuple[Tensor, Tensor]


def run(inputs: Inputs, variant: Variant, plan: ops.Plan) -> Result:
    """The operator itself: out (S, L, H, ...) and the log-sum-exp (S, L, H)."""
    if variant is Variant.KV:
        return ops.xattn_kv(inputs.query, inputs.key, inputs.value, plan, inputs.shape.scale)
    return ops.xattn_absorbed(inputs.folded, inputs.memory, plan, inputs.shape.scale, variant.form)


def plan_of(inputs: Inputs, variant: Variant, splits: int) -> ops.Plan:
    """The work table of a call."""
    tokens, heads = inputs.shape.tokens, inputs.shape.heads
    return ops.make_plan(
        inputs.image_index,
        inputs.kv_lens,
        tokens=tokens * heads if variant.absorbed else tokens,
        heads=1 if variant.absorbed else heads,
        tiling=variant.tiling(splits),
        device=inputs.device,
    )


def check(case: Check, device: torch.device, seed: int) -> dict[str, Any]:
    """Compare one case; what was found, `passed` among it."""
    inputs = draw(case.shape, case.kind, device, seed)
    plan = plan_of(inputs, case.variant, case.splits)
    poisoned = poison(inputs, case, len(plan.items))
    out, lse = run(inputs, case.variant, plan)
    again, lse_again = run(inputs, case.variant, plan)
    exact, exact_lse = _plain(inputs, case.variant, plan, torch.float64)
    finite = exact_lse[exact_lse.isfinite()]
    record = {
        **errors(out, exact, same_type(inputs, case.variant, plan)),
        "lse_error": _lse_error(lse, exact_lse),
        "lse_allowed": LSE_ABSOLUTE + LSE_RELATIVE * (float(finite.abs().amax()) if len(finite) else 0.0),
        "bit_equal": torch.equal(out, again) and torch.equal(lse, lse_again),
        "poisoned": poisoned,
    }
    if case.splits > 1:
        whole, _ = run(inputs, case.variant, plan_of(inputs, case.variant, 1))
        record["split_ulps"] = _ulps(out, whole)
    return {**record, "passed": passed(record)}


def passed(record: dict[str, Any]) -> bool:
    """Whether what `check` found is right; whatever is not a number is not."""
    return bool(
        record["error"] <= FACTOR * record["same_type_error"] + record["rounding"]
        and record["largest_error"]
        <= FACTOR * record["same_type_largest_error"] + 2 * record["largest_rounding"]
        and record["lse_error"] <= record["lse_allowed"]
        and record["bit_equal"]
        and record.get("split_ulps", 0.0) <= ULPS
    )


def errors(out: Tensor, exact: Tensor, same: Tensor) -> dict[str, float]:
    """Errors of a result and of plain torch's in the same type, relative (Frobenius) and at the worst element."""
    rounded = exact.to(out.dtype).double()
    size = exact.norm().clamp_min(1e-300)

    def relative(x: Tensor) -> float:
        return float((x.double() - exact).norm() / size)

    def largest(x: Tensor) -> float:
        return float((x.double() - exact).abs().amax())

    return {
        "error": relative(out),
        "same_type_error": relative(same),
        "rounding": relative(rounded),
        "largest_error": largest(out),
        "same_type_largest_error": largest(same),
        "largest_rounding": largest(rounded),
    }


def same_type(inputs: Inputs, variant: Variant, plan: ops.Plan) -> Tensor:
    """Plain torch, every step rounded to the inputs' type: what a kernel is allowed to err as."""
    if variant is Variant.KV:
        q_SLHK, k_INGK, v_INGK = inputs.query, inputs.key, inputs.value
    else:
        q_SLHK, k_INGK, v_INGK = inputs.folded, inputs.memory[:, :, None], inputs.memory[:, :, None]
    out_SLHK = torch.zeros_like(q_SLHK)
    for group in plain.groups_of(plan.items, plan.row_sequence, plan.kv_lens):
        if group.keys:
            q_HSLK = q_SLHK[group.sequences].permute(2, 0, 1, 3)
            k_GNK = k_INGK[group.image, : group.keys].transpose(0, 1)
            v_GNK = v_INGK[group.image, : group.keys].transpose(0, 1)
            score_HTN = (q_HSLK.flatten(1, 2) @ k_GNK.mT) * inputs.shape.scale
            out_HSLK = (score_HTN.softmax(-1) @ v_GNK).view(q_HSLK.shape)
            out_SLHK[group.sequences] = out_HSLK.permute(1, 2, 0, 3)
    return out_SLHK


def poison(inputs: Inputs, case: Check, items: int) -> bool:
    """Leave NaN where the outputs and their workspace will be allocated; whether they will be, as far as one can see.

    The caching allocator hands freed blocks out again, the same size the most willingly.
    """
    query = inputs.folded if case.variant.absorbed else inputs.query
    rows = query.numel() // query.shape[-1]
    sizes = [2 * query.numel(), 4 * rows, 4 * case.splits * query.numel(), 4 * case.splits * rows]
    if case.variant is Variant.ABSORBED_TWO:
        row_tile, key_tile = case.variant.tile
        tiles = -(-case.shape.keys // key_tile // case.splits)
        sizes += [2 * items * tiles * row_tile * key_tile, 8 * items * tiles * row_tile]
    # All bits set are NaN in every type.
    blocks = [
        torch.full((-(-size // 4),), -1, dtype=torch.int32, device=inputs.device)
        for size in sizes
        for _ in range(2)
    ]
    del blocks
    return bool(torch.empty_like(query).isnan().all())


def _plain(inputs: Inputs, variant: Variant, plan: ops.Plan, dtype: torch.dtype) -> Result:
    groups, scale = plain.groups_of(plan.items, plan.row_sequence, plan.kv_lens), inputs.shape.scale
    if variant is Variant.KV:
        q_SLHK, k_INHK, v_INHK = (x.to(dtype) for x in (inputs.query, inputs.key, inputs.value))
        return plain.attend(q_SLHK, k_INHK, v_INHK, groups, scale)
    x_IN1D = inputs.memory.to(dtype)[:, :, None]
    return plain.attend(inputs.folded.to(dtype), x_IN1D, x_IN1D, groups, scale)


def _lse_error(lse: Tensor, exact: Tensor) -> float:
    if not torch.equal(lse.isneginf(), exact.isneginf()):
        return float("inf")
    finite = exact.isfinite()
    return float((lse - exact)[finite].abs().amax()) if finite.any() else 0.0


def _ulps(out: Tensor, other: Tensor) -> float:
    _, exponent = torch.frexp(out.double().abs().amax(-1, keepdim=True))
    unit = torch.finfo(out.dtype).eps * torch.exp2((exponent - 1).double())
    return float(((out.double() - other.double()).abs() / unit).amax())
