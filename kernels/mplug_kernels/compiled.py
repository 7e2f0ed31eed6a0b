"""The forms through the compiled operators, for calls that `dispatch.kernel_for` gives to one of them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mplug_kernels import ops
from mplug_kernels.dispatch import kernel_for
from mplug_kernels.results import Call
from mplug_kernels.variants import HEAD_WIDTH, Variant


def attend_cached(q_BTHK: Tensor, key_BHNK: Tensor, value_BHNK: Tensor) -> Tensor | None:
    """Attention to keys and values; (B, T, H, K), or None where plain torch should do it."""
    memories, tokens, heads, head_width = q_BTHK.shape
    if head_width != HEAD_WIDTH and q_BTHK.is_cuda:  # on a CPU the operator takes any
        return None
    keys = key_BHNK.shape[2]
    call = _call(q_BTHK, rows=heads * tokens, keys=keys, width=heads * head_width, absorbed=False)
    decision = kernel_for(call, q_BTHK.device)
    if decision.variant is None:
        return None
    # The sequences of one memory are so many more tokens of one.
    plan = _plan(decision.variant, decision.splits, memories, tokens, heads, keys, q_BTHK.device)
    k_BNHK, v_BNHK = (x.transpose(1, 2).contiguous() for x in (key_BHNK, value_BHNK))
    return ops.xattn_kv(q_BTHK.contiguous(), k_BNHK, v_BNHK, plan, head_width**-0.5)[0]


def attend_absorbed(rows_BRM: Tensor, memory_BNM: Tensor) -> Tensor | None:
    """Attention of folded, scaled rows to raw memory; (B, R, M), or None where plain torch should do it."""
    memories, rows, width = rows_BRM.shape
    keys = memory_BNM.shape[1]
    call = _call(rows_BRM, rows=rows, keys=keys, width=width, absorbed=True)
    decision = kernel_for(call, rows_BRM.device)
    if decision.variant is None:
        return None
    plan = _plan(decision.variant, decision.splits, memories, rows, 1, keys, rows_BRM.device)
    rows_BR1M, memory_BNM = rows_BRM[:, :, None].contiguous(), memory_BNM.contiguous()
    return ops.xattn_absorbed(rows_BR1M, memory_BNM, plan, 1.0, decision.variant.form)[0].squeeze(2)


def _call(q: Tensor, *, rows: int, keys: int, width: int, absorbed: bool) -> Call:
    return Call(absorbed=absorbed, images=len(q), rows=rows, keys=keys, width=width, dtype=q.dtype)


@functools.lru_cache(maxsize=256)
def _plan(
    variant: Variant, splits: int, images: int, tokens: int, heads: int, keys: int, device: torch.device
) -> ops.Plan:
    # Outside of inference mode whoever is the first to ask: the next may want gradients.
    with torch.inference_mode(False):
        return ops.make_plan(
            torch.arange(images, dtype=torch.int32),
            torch.full((images,), keys, dtype=torch.int32),
            tokens=tokens,
            heads=heads,
            tiling=variant.tiling(splits),
            device=device,
        )
