"""Who is timed: ours, torch's attention with each backend pinned, the absorbed form in plain torch, the reference.

Three families, each computing one thing from one set of inputs:

    cached      queries and cached keys and values, to context
    absorbed    folded queries and raw tokens, to context
    whole       queries and raw tokens and projections, to context: what a layer without a cache has to do
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import checking, machine, roofline
from bench.data import Inputs
from bench.roofline import Work
from bench.shapes import Shape
from mplug_kernels import ops
from mplug_kernels.variants import HEAD_WIDTH, Variant

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
SPLITS = (1, 2, 4, 8)
"""Counts that ours is timed with."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to compute it."""

    name: str
    family: str
    prepare: Callable[[Inputs], Callable[[], Tensor]]
    """Does what is not timed; gives what is: context (S, L, H, K) or (S, L, H, D)."""
    work: Callable[[Shape], Work]
    """What this way must do at least."""
    variant: Variant | None = None
    """Which kernel of ours it is, if one."""


def contenders(shape: Shape, variants: Iterable[Variant]) -> list[Contender]:
    """All for a shape, ours last: what they break does not keep the others from being timed."""
    found = [*_torch_cached(shape), *_torch_absorbed(), *_torch_whole(shape)]
    for variant in variants:
        for splits in SPLITS:
            found.append(_ours(variant, splits))
        if variant.absorbed:
            found.append(_ours_whole(variant))
    return found


def _torch_cached(shape: Shape) -> list[Contender]:
    layouts = {"folded": _sdpa_folded} | ({"expanded": _sdpa_expanded} if shape.beams > 1 else {})
    return [
        Contender(f"sdpa_{layout}_{name}", "cached", partial(prepare, backend=backend), roofline.cached_work)
        for layout, prepare in layouts.items()
        for name, backend in BACKENDS.items()
    ]


def _torch_absorbed() -> list[Contender]:
    work = roofline.absorbed_work
    return [
        Contender("bmm", "absorbed", _bmm, work),
        Contender("sdpa_one_head", "absorbed", _one_head, work),
    ]


def _torch_whole(shape: Shape) -> list[Contender]:
    work = roofline.projecting_work
    return [
        Contender("project_then_sdpa", "whole", _project, work),
        Contender(
            "bmm_with_folding", "whole", partial(_with_folding, attend=_attend_bmm), roofline.folding_work
        ),
        Contender("reference", "whole", _reference, work),
    ]


def _ours(variant: Variant, splits: int) -> Contender:
    work = roofline.absorbed_work if variant.absorbed else roofline.cached_work
    family = "absorbed" if variant.absorbed else "cached"
    prepare = partial(_kernel, variant=variant, splits=splits)
    return Contender(f"{variant.value}_splits_{splits}", family, prepare, work, variant)


def _ours_whole(variant: Variant) -> Contender:
    prepare = partial(_kernel_with_folding, variant=variant)
    return Contender(f"{variant.value}_with_folding", "whole", prepare, roofline.folding_work, variant)


def _kernel(inputs: Inputs, *, variant: Variant, splits: int) -> Callable[[], Tensor]:
    plan = checking.plan_of(inputs, variant, splits)
    return lambda: checking.run(inputs, variant, plan)[0]


def _sdpa_folded(inputs: Inputs, *, backend: SDPBackend) -> Callable[[], Tensor]:
    shape = inputs.shape
    q_IHTK = inputs.query.view(shape.images, -1, shape.heads, HEAD_WIDTH).transpose(1, 2)
    k_IHNK, v_IHNK = inputs.key.transpose(1, 2), inputs.value.transpose(1, 2)
    return partial(_sdpa, q_IHTK, k_IHNK, v_IHNK, backend, inputs.query.shape)


def _sdpa_expanded(inputs: Inputs, *, backend: SDPBackend) -> Callable[[], Tensor]:
    beams = inputs.shape.beams
    k_SHNK, v_SHNK = (x.repeat_interleave(beams, 0).transpose(1, 2) for x in (inputs.key, inputs.value))
    return partial(_sdpa, inputs.query.transpose(1, 2), k_SHNK, v_SHNK, backend, inputs.query.shape)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend, shape: torch.Size) -> Tensor:
    with sdpa_kernel([backend]):
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(shape)


def _bmm(inputs: Inputs) -> Callable[[], Tensor]:
    return lambda: _attend_bmm(inputs, inputs.folded)


def _attend_bmm(inputs: Inputs, folded_SLHD: Tensor) -> Tensor:
    rows_IRD = folded_SLHD.reshape(inputs.shape.images, -1, inputs.shape.width)
    score_IRN = torch.bmm(rows_IRD, inputs.memory.mT) * inputs.shape.scale
    return torch.bmm(score_IRN.softmax(-1), inputs.memory).view(folded_SLHD.shape)


def _one_head(inputs: Inputs) -> Callable[[], Tensor]:
    rows_I1RD = inputs.folded.reshape(inputs.shape.images, 1, -1, inputs.shape.width)
    x_I1ND, scale = inputs.memory[:, None], inputs.shape.scale

    def attend() -> Tensor:
        out_I1RD = F.scaled_dot_product_attention(rows_I1RD, x_I1ND, x_I1ND, scale=scale)
        return out_I1RD.reshape(inputs.folded.shape)

    return attend


def _project(inputs: Inputs) -> Callable[[], Tensor]:
    shape = inputs.shape
    weight = torch.cat([inputs.key_weight, inputs.value_weight])
    q_IHTK = inputs.query.view(shape.images, -1, shape.heads, HEAD_WIDTH).transpose(1, 2)

    def project() -> Tensor:
        key_value = F.linear(inputs.memory, weight).view(shape.images, shape.keys, 2, shape.heads, HEAD_WIDTH)
        k_IHNK, v_IHNK = (key_value[:, :, part].transpose(1, 2) for part in range(2))
        out_IHTK = F.scaled_dot_product_attention(q_IHTK, k_IHNK, v_IHNK)
        return out_IHTK.transpose(1, 2).reshape(inputs.query.shape)

    return project


def _with_folding(inputs: Inputs, *, attend: Callable[[Inputs, Tensor], Tensor]) -> Callable[[], Tensor]:
    shape = inputs.shape
    key_HKD, value_HKD = (
        weight.view(shape.heads, HEAD_WIDTH, shape.width)
        for weight in (inputs.key_weight, inputs.value_weight)
    )

    def run() -> Tensor:
        folded_SLHD = torch.einsum("slhk,hkd->slhd", inputs.query, key_HKD).contiguous()
        return torch.einsum("slhd,hkd->slhk", attend(inputs, folded_SLHD), value_HKD)

    return run


def _kernel_with_folding(inputs: Inputs, *, variant: Variant) -> Callable[[], Tensor]:
    shape = inputs.shape
    splits = variant.splits(shape.images, shape.rows, shape.keys, machine.processors(inputs.device))
    plan = checking.plan_of(inputs, variant, splits)

    def attend(inputs: Inputs, folded_SLHD: Tensor) -> Tensor:
        return ops.xattn_absorbed(folded_SLHD, inputs.memory, plan, shape.scale, variant.form)[0]

    return _with_folding(inputs, attend=attend)


def _reference(inputs: Inputs) -> Callable[[], Tensor]:
    """As the published code does it: tiled images, keys and values made at every call, scores written out."""
    shape = inputs.shape
    tiled_SND = inputs.memory.repeat_interleave(shape.beams, 0)
    q_SHLK = inputs.query.transpose(1, 2)

    def heads(weight_DD: Tensor) -> Tensor:
        projected_SND = F.linear(tiled_SND, weight_DD, inputs.bias)
        return projected_SND.view(*projected_SND.shape[:2], shape.heads, HEAD_WIDTH).transpose(1, 2)

    def run() -> Tensor:
        k_SHNK, v_SHNK = heads(inputs.key_weight), heads(inputs.value_weight)
        score_SHLN = (q_SHLK @ k_SHNK.mT) * shape.scale
        return (score_SHLN.softmax(-1) @ v_SHNK).transpose(1, 2).contiguous()

    return run
