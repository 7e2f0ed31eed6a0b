"""The forms through the compiled operators, for calls that `dispatch.kernel_for` gives to one of them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mplug_kernels import ops
from mplug_kernels.dispatch import kernel_for, may_run
from mplug_kernels.results import Call
from mplug_kernels.variants import HEAD_WIDTH, Variant

KvLens = Callable[[], tuple[int, ...] | None]
"""Says how many of each memory's rows are attended to, its first ones; None: other rows than the first are."""


def attend_cached(
    q_BTHK: Tensor, key_BHNK: Tensor, value_BHNK: Tensor, kv_lens: KvLens | None = None
) -> Tensor | None:
    """Attention to keys and values.

    Args:
        q_BTHK: queries, not scaled.
        key_BHNK: of B memories.
        value_BHNK: likewise.
        kv_lens: asked only where a kernel would run, as the answer may have to come from the device; None = all
            rows are attended to.

    Returns:
        (B, T, H, K), zeros for a memory of length 0; or None where plain torch should do it: no kernel is known to
        be better, or what is attended to is not the first rows.
    """
    if not may_run(q_BTHK.is_cuda):
        return None
    memories, tokens, heads, head_width = q_BTHK.shape
    if head_width != HEAD_WIDTH and q_BTHK.is_cuda:  # on a CPU the operator takes any
        return None
    keys = key_BHNK.shape[2]
    call = _call(q_BTHK, rows=heads * tokens, keys=keys, width=heads * head_width, absorbed=False)
    decision = kernel_for(call, q_BTHK.device)
    if decision.variant is None:
        return None
    lengths = None if kv_lens is None else kv_lens()
    if kv_lens is not None and lengths is None:
        return None
    # The sequences of one memory are so many more tokens of one.
    plan = _plan(decision.variant, decision.splits, memories, tokens, heads, keys, q_BTHK.device, lengths)
    k_BNHK, v_BNHK = (x.transpose(1, 2).contiguous() for x in (key_BHNK, value_BHNK))
    return ops.xattn_kv(q_BTHK.contiguous(), k_BNHK, v_BNHK, plan, head_width**-0.5)[0]


def attend_absorbed(rows_BRM: Tensor, memory_BNM: Tensor) -> Tensor | None:
    """Attention of folded, scaled rows to raw memory; (B, R, M), or None where plain torch should do it."""
    if not may_run(rows_BRM.is_cuda):
        return None
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
    variant: Variant,
    splits: int,
    images: int,
    tokens: int,
    heads: int,
    keys: int,
    device: torch.device,
    kv_lens: tuple[int, ...] | None = None,
) -> ops.Plan:
    # Outside of inference mode whoever is the first to ask: the next may want gradients.
    with torch.inference_mode(False):
        return ops.make_plan(
            torch.arange(images, dtype=torch.int32),
            torch.tensor((keys,) * images if kv_lens is None else kv_lens, dtype=torch.int32),
            tokens=tokens,
            heads=heads,
            tiling=variant.tiling(splits),
            device=device,
        )
