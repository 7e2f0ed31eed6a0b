"""The operators, `torch.ops.mplug_kernels.*`: compiled where a library was found, else the same in plain torch.

    xattn_kv        rows of queries to cached keys and values of their image, heads of width 64
    xattn_absorbed  folded queries to the raw image tokens, which are keys and values of every head
    merge_states    one result of two over disjoint keys
    xattn_plan      the work table that the first two take; see `planner`

All can be traced, compiled and differentiated; the backward pass computes scores again, in plain torch. What is
compiled runs on CUDA only: tensors elsewhere take the plain form. Which of the forms *should* run is decided in
`results`, never here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mplug_kernels import library, plain, planner
from mplug_kernels.planner import Tiling

SCHEMAS = {
    "xattn_kv": "(Tensor q_SLHK, Tensor k_INHK, Tensor v_INHK, Tensor items, Tensor row_sequence, Tensor kv_lens, "
    "float scale, int splits) -> (Tensor out_SLHK, Tensor lse_SLH)",
    "xattn_absorbed": "(Tensor q_SLHD, Tensor x_IND, Tensor items, Tensor row_sequence, Tensor kv_lens, "
    "float scale, int splits, int form) -> (Tensor context_SLHD, Tensor lse_SLH)",
    "merge_states": "(Tensor out1, Tensor lse1, Tensor out2, Tensor lse2) -> (Tensor out, Tensor lse)",
    "xattn_plan": "(Tensor image_index, Tensor kv_lens, int tokens, int heads, int row_tile, int key_tile, "
    "int splits) -> (Tensor items, Tensor row_sequence)",
}
BACKWARD_SCHEMAS = {
    "xattn_kv_backward": "(Tensor out_grad_SLHK, Tensor lse_grad_SLH, Tensor q_SLHK, Tensor k_INHK, Tensor v_INHK, "
    "Tensor items, Tensor row_sequence, Tensor kv_lens, float scale) -> (Tensor, Tensor, Tensor)",
    "xattn_absorbed_backward": "(Tensor context_grad_SLHD, Tensor lse_grad_SLH, Tensor q_SLHD, Tensor x_IND, "
    "Tensor items, Tensor row_sequence, Tensor kv_lens, float scale) -> (Tensor, Tensor)",
}
TWO_PASSES, ONE_PASS = 0, 1
"""What `form` of `xattn_absorbed` may be: two matrix products with statistics between them, or a single pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A work table and what belongs to it, on one device; made once, good for every layer of a batch."""

    items: Tensor
    row_sequence: Tensor
    kv_lens: Tensor
    splits: int


def make_plan(
    image_index: Tensor, kv_lens: Tensor, *, tokens: int, heads: int, tiling: Tiling, device: torch.device
) -> Plan:
    """Cut the work.

    Args:
        image_index: int32 (S), on the CPU: the image of each sequence.
        kv_lens: int32 (I), on the CPU: how many rows of each image are attended to.
        tokens: query rows of a sequence; heads times tokens for the absorbed form, with one head.
        heads: heads with keys of their own.
        tiling: how it is cut.
        device: where the attention will run.

    Raises:
        ValueError: an image that does not exist, or a negative length.
    """
    items, row_sequence = torch.ops.mplug_kernels.xattn_plan(
        image_index, kv_lens, tokens, heads, tiling.row_tile, tiling.key_tile, tiling.splits
    )
    return Plan(items.to(device), row_sequence.to(device), kv_lens.to(device), tiling.splits)


def xattn_kv(
    q_SLHK: Tensor, k_INHK: Tensor, v_INHK: Tensor, plan: Plan, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to keys and values; (S, L, H, K) of the input's type and the float32 log-sum-exp (S, L, H)."""
    out: tuple[Tensor, Tensor] = torch.ops.mplug_kernels.xattn_kv(
        q_SLHK, k_INHK, v_INHK, plan.items, plan.row_sequence, plan.kv_lens, scale, plan.splits
    )
    return out


def xattn_absorbed(
    q_SLHD: Tensor, x_IND: Tensor, plan: Plan, scale: float, form: int = TWO_PASSES
) -> tuple[Tensor, Tensor]:
    """Attend to raw tokens; (S, L, H, D) of the input's type and the float32 log-sum-exp (S, L, H)."""
    out: tuple[Tensor, Tensor] = torch.ops.mplug_kernels.xattn_absorbed(
        q_SLHD, x_IND, plan.items, plan.row_sequence, plan.kv_lens, scale, plan.splits, form
    )
    return out


def merge_states(out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """Join two results over disjoint keys: outs (..., K), lses float32 (...)."""
    out: tuple[Tensor, Tensor] = torch.ops.mplug_kernels.merge_states(out1, lse1, out2, lse2)
    return out


def _kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    items: Tensor,
    row_sequence: Tensor,
    kv_lens: Tensor,
    scale: float,
    splits: int,
) -> tuple[Tensor, Tensor]:
    check_kv(q, k, v)
    return plain.attend(q, k, v, plain.groups_of(items, row_sequence, kv_lens), scale)


def _absorbed(
    q: Tensor,
    x: Tensor,
    items: Tensor,
    row_sequence: Tensor,
    kv_lens: Tensor,
    scale: float,
    splits: int,
    form: int,
) -> tuple[Tensor, Tensor]:
    check_absorbed(q, x, form)
    x_IN1D = x[:, :, None]
    return plain.attend(q, x_IN1D, x_IN1D, plain.groups_of(items, row_sequence, kv_lens), scale)


def _kv_backward(
    out_grad: Tensor,
    lse_grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    items: Tensor,
    row_sequence: Tensor,
    kv_lens: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    groups = plain.groups_of(items, row_sequence, kv_lens)
    return plain.attend_backward(q, k, v, groups, scale, out_grad, lse_grad)


def _absorbed_backward(
    context_grad: Tensor,
    lse_grad: Tensor,
    q: Tensor,
    x: Tensor,
    items: Tensor,
    row_sequence: Tensor,
    kv_lens: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    groups, x_IN1D = plain.groups_of(items, row_sequence, kv_lens), x[:, :, None]
    q_grad, key_grad, value_grad = plain.attend_backward(
        q, x_IN1D, x_IN1D, groups, scale, context_grad, lse_grad
    )
    return q_grad, (key_grad + value_grad).squeeze(2)


def _plan(
    image_index: Tensor, kv_lens: Tensor, tokens: int, heads: int, row_tile: int, key_tile: int, splits: int
) -> tuple[Tensor, Tensor]:
    tiling = Tiling(row_tile=row_tile, key_tile=key_tile, splits=splits)
    items, order = planner.xattn_plan(image_index.tolist(), kv_lens.tolist(), tokens, heads, tiling)
    table = torch.tensor(items, dtype=torch.int32).reshape(-1, len(planner.Item._fields))
    return table, torch.tensor(order, dtype=torch.int32)


def check_kv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse shapes that disagree.

    Raises:
        ValueError: naming the argument.
    """
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or q.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; they must be (S, L, H, K), "
            "(I, N, H, K) and (I, N, H, K)"
        )


def check_absorbed(q: Tensor, x: Tensor, form: int) -> None:
    """Refuse shapes that disagree.

    Raises:
        ValueError: naming the argument.
    """
    if q.ndim != 4 or x.ndim != 3 or q.shape[3] != x.shape[2]:
        raise ValueError(
            f"q is {tuple(q.shape)} and x {tuple(x.shape)}; they must be (S, L, H, D) and (I, N, D)"
        )
    if form not in (TWO_PASSES, ONE_PASS):
        raise ValueError(f"form is {form}; it must be {TWO_PASSES} or {ONE_PASS}")


def _fake_rows(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def _fake_merge(out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(out1), torch.empty_like(lse1)


def _fake_plan(image_index: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    width = len(planner.Item._fields)
    items = image_index.new_empty((torch.library.get_ctx().new_dynamic_size(), width))
    return items, torch.empty_like(image_index)


def _fake_kv_backward(
    out_grad: Tensor, lse_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object
) -> tuple[Tensor, ...]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _fake_absorbed_backward(
    context_grad: Tensor, lse_grad: Tensor, q: Tensor, x: Tensor, *_: object
) -> tuple[Tensor, ...]:
    return torch.empty_like(q), torch.empty_like(x)


def _keep_kv(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.scale = inputs[6]


def _kv_gradients(ctx: Any, out_grad: Tensor, lse_grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, *plan = ctx.saved_tensors
    grads = torch.ops.mplug_kernels.xattn_kv_backward(out_grad, lse_grad, q, k, v, *plan, ctx.scale)
    return (*grads, None, None, None, None, None)


def _keep_absorbed(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.scale = inputs[5]


def _absorbed_gradients(ctx: Any, context_grad: Tensor, lse_grad: Tensor) -> tuple[Tensor | None, ...]:
    q, x, *plan = ctx.saved_tensors
    grads = torch.ops.mplug_kernels.xattn_absorbed_backward(context_grad, lse_grad, q, x, *plan, ctx.scale)
    return (*grads, None, None, None, None, None, None)


def _keep_merge(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _merge_gradients(ctx: Any, out_grad: Tensor, lse_grad: Tensor) -> tuple[Tensor, ...]:
    out1, lse1, out2, lse2, out, lse = ctx.saved_tensors
    grads = []
    for part, part_lse in ((out1, lse1), (out2, lse2)):
        share = plain.share(part_lse, lse)
        toward = (out_grad.float() * (part - out).float()).sum(-1) + lse_grad
        grads += [(out_grad * share).to(part.dtype), toward * share.squeeze(-1)]
    return tuple(grads)


def _register() -> torch.library.Library:
    registry = torch.library.Library("mplug_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
    schemas = BACKWARD_SCHEMAS if LIBRARY.loaded else {**SCHEMAS, **BACKWARD_SCHEMAS}
    for name, schema in schemas.items():
        registry.define(name + schema)  # type: ignore[no-untyped-call]
    forms = {
        "xattn_kv": _kv,
        "xattn_absorbed": _absorbed,
        "merge_states": plain.merge,
        "xattn_kv_backward": _kv_backward,
        "xattn_absorbed_backward": _absorbed_backward,
    }
    for name, form in forms.items():
        # Runs where nothing was compiled for a tensor's device.
        registry.impl(name, form, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    if not LIBRARY.loaded:
        registry.impl("xattn_plan", _plan, "CPU")  # type: ignore[no-untyped-call]
    _register_fakes(registry)
    _register_gradients(registry)
    return registry


def _register_fakes(registry: torch.library.Library) -> None:
    fakes: dict[str, Callable[..., object]] = {
        "xattn_kv": _fake_rows,
        "xattn_absorbed": _fake_rows,
        "merge_states": _fake_merge,
        "xattn_plan": _fake_plan,
        "xattn_kv_backward": _fake_kv_backward,
        "xattn_absorbed_backward": _fake_absorbed_backward,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"mplug_kernels::{name}", fake, lib=registry)


def _register_gradients(registry: torch.library.Library) -> None:
    gradients = {
        "xattn_kv": (_kv_gradients, _keep_kv),
        "xattn_absorbed": (_absorbed_gradients, _keep_absorbed),
        "merge_states": (_merge_gradients, _keep_merge),
    }
    for name, (backward, keep) in gradients.items():
        torch.library.register_autograd(f"mplug_kernels::{name}", backward, setup_context=keep, lib=registry)


LIBRARY = library.load()
"""What was found to load, and why not where nothing was."""
_REGISTRY = _register()
