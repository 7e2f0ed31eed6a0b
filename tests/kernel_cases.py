"""Cases of cross-attention drawn from a number, with what the kernels find hard; their values in float64."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernel_emulator import Problem

HEAD_WIDTH = 64
FORMS = ("kv", "absorbed_two", "absorbed_one")
DTYPES = (torch.float16, torch.bfloat16)
KINDS = ("white", "common mean", "outlier channels", "peaky")
LENGTHS = ("grid", "one", "ragged", "whole tiles", "an empty image")
NUM_CASES = 360


@dataclass(frozen=True, slots=True)
class Case:
    """A drawn case; the number says everything."""

    number: int
    form: str
    dtype: torch.dtype
    kind: str
    lengths: str
    image_index: tuple[int, ...]
    kv_lens: tuple[int, ...]
    tokens: int
    heads: int
    width: int
    splits: int
    architecture: str

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.number}-{self.form}-{dtype}-{self.kind}-{self.lengths}".replace(" ", "_")


def draw(number: int) -> Case:
    """Forms, types, kinds of data and of lengths take turns; sizes are random, and small: the emulator is slow."""
    rng = random.Random(number)
    form = FORMS[number % 3]
    lengths = LENGTHS[number % 5]
    image_index, kv_lens = _draw_images(lengths, rng)
    sequences = len(image_index)
    # Rows of a head, or of all heads: below, at and above what one block takes.
    tokens = min(64, max(1, rng.choice((1, 7, 16, 17, 32, 33, 64, 100)) // sequences))
    heads = rng.choice((1, 2)) if form == "kv" else rng.choice((1, 2, 3, 6))
    width = HEAD_WIDTH if form == "kv" else rng.choice((384, 384, 384, 384, 768, 1024))
    return Case(
        number=number,
        form=form,
        dtype=DTYPES[number // 3 % 2],
        kind=KINDS[number // 6 % 4],
        lengths=lengths,
        image_index=image_index,
        kv_lens=kv_lens,
        tokens=tokens,
        heads=heads,
        width=width,
        splits=rng.randint(2, 8),
        architecture=rng.choice(("sm_80", "sm_90")),
    )


def _draw_images(lengths: str, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which image each sequence attends to, and how long images are."""
    kv_lens = tuple(_draw_length(lengths, rng) for _ in range(rng.choice((1, 1, 2, 3))))
    attended = [rng.randrange(len(kv_lens)) for _ in range(rng.choice((1, 2, 3, 5)))]
    if lengths == "an empty image":
        attended.insert(rng.randrange(len(attended) + 1), len(kv_lens))
        kv_lens = (*kv_lens, 0)
    return tuple(attended), kv_lens


def _draw_length(lengths: str, rng: random.Random) -> int:
    if lengths == "one":
        return rng.choice((1, 1, 2))
    if lengths == "whole tiles":
        return rng.choice((64, 128, 192, 256))
    if lengths == "grid":
        return int(rng.choice((7, 8, 10, 14, 24))) ** 2 + 1
    return rng.randint(1, 400)


def make_problem(case: Case) -> Problem:
    """Tensors of a case. Rows beyond an image's length are NaN: nobody may look at them."""
    generator = torch.Generator().manual_seed(case.number)
    keys = max(*case.kv_lens, 1)
    heads = case.heads if case.form == "kv" else 1
    shape = (len(case.kv_lens), keys, heads, case.width)
    q_scale = (HEAD_WIDTH / case.width) ** 0.5 * (8 if case.kind == "peaky" else 1)
    q = torch.randn(len(case.image_index), case.tokens, case.heads, case.width, generator=generator) * q_scale
    pools = [_draw_pool(case, shape, generator) for _ in range(2 if case.form == "kv" else 1)]
    if case.form != "kv":
        pools = [pool.squeeze(2) for pool in pools]
    scale = HEAD_WIDTH**-0.5
    return Problem(case.form, q.to(case.dtype), tuple(pools), case.image_index, case.kv_lens, scale)


def _draw_pool(case: Case, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    pool = torch.randn(shape, generator=generator)
    if case.kind == "common mean":
        pool += 3 * torch.randn(shape[-1], generator=generator)
    if case.kind == "outlier channels":
        pool[..., torch.randperm(shape[-1], generator=generator)[:4]] *= 30
    for image, length in enumerate(case.kv_lens):
        pool[image, length:] = torch.nan
    return pool.to(case.dtype)


Attend = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def each_sequence(problem: Problem, attend: Attend, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What `attend` (q_HLK, k_HNK, v_HNK, scale) makes of every sequence, in a type: (S, L, H, K), lse (S, L, H)."""
    q_SLHK = problem.q_SLHK.to(dtype)
    out_SLHK = torch.zeros_like(q_SLHK)
    lse_SLH = torch.full(q_SLHK.shape[:3], -torch.inf, dtype=dtype)
    for sequence, image in enumerate(problem.image_index):
        length = problem.kv_lens[image]
        k, v = (_heads_of(pool[image, :length].to(dtype)) for pool in (problem.pools[0], problem.pools[-1]))
        if length > 0:
            out_HLK, lse_HL = attend(q_SLHK[sequence].transpose(0, 1), k, v, problem.scale)
            out_SLHK[sequence] = out_HLK.transpose(0, 1)
            lse_SLH[sequence] = lse_HL.T
    return out_SLHK, lse_SLH


def _heads_of(rows: Tensor) -> Tensor:
    return rows.transpose(0, 1) if rows.dim() == 3 else rows[None]


def attend_plainly(q_HLK: Tensor, k_HNK: Tensor, v_HNK: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Three lines of torch, every intermediate result in the type of the inputs."""
    score_HLN = (q_HLK @ k_HNK.mT) * scale
    return score_HLN.softmax(-1) @ v_HNK, score_HLN.logsumexp(-1)


def exact(problem: Problem) -> tuple[Tensor, Tensor]:
    """In float64, of the inputs as they are rounded."""
    return each_sequence(problem, attend_plainly, torch.float64)


def plain(problem: Problem) -> tuple[Tensor, Tensor]:
    """In the type of the inputs."""
    return each_sequence(problem, attend_plainly, problem.q_SLHK.dtype)
