"""The pieces of a run: each has a key, and doing it gives a record."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from bench import checking, machine, roofline, timing
from bench.checking import LSE_ABSOLUTE
from bench.contenders import Contender, contenders
from bench.data import draw
from bench.roofline import Ceilings
from bench.shapes import Check, Shape, checks, timed
from mplug_kernels import ops
from mplug_kernels.variants import Variant

COLD_FACTOR = 3
"""Between two uses of the same inputs others go through the L2 cache that would fill it so many times."""
MOST_SETS = 64
MERGE_ERROR = 4.0
"""Largest relative error of a merged result, in roundings of its type."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """One piece."""

    key: str
    """Its kind, then what tells it from others; parts divided by colons."""
    run: Callable[[], Record]

    @property
    def kind(self) -> str:
        """The first part of the key."""
        return self.key.split(":", 1)[0]


def all_tasks(device: torch.device, *, tiny: bool, ceilings: Ceilings | None = None) -> list[Task]:
    """Everything of part one, in the order in which it is done."""
    found = [Task("ceilings", lambda: _ceilings(device, tiny=tiny))]
    found += [Task("merge", lambda: check_merge(device))]
    found += [_check_task(case, device) for case in _interleaved(tiny=tiny)]
    for shape in timed(tiny=tiny):
        found += _timing_tasks(shape, device, ceilings)
    return found


def sanitizer_tasks(device: torch.device) -> list[Task]:
    """Few and small: what NVIDIA's checker watches."""
    cases = [case for case in _interleaved(tiny=True) if case.kind in ("white", "outliers")]
    return [Task("merge", lambda: check_merge(device))] + [_check_task(case, device) for case in cases]


def check_merge(device: torch.device) -> Record:
    """`merge_states` against attention over all keys at once, in float64."""
    generator = torch.Generator(device).manual_seed(random.SystemRandom().randrange(2**31))
    worst = 0.0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        outs = torch.randn(2, 37, 64, generator=generator, device=device).to(dtype)
        lses = 5 * torch.randn(2, 37, generator=generator, device=device)
        lses[0, 3], lses[:, 5] = -torch.inf, -torch.inf
        out, lse = ops.merge_states(outs[0], lses[0], outs[1], lses[1])
        weights = lses.double().softmax(0).nan_to_num(0.0)
        exact = (outs.double() * weights[..., None]).sum(0)
        expected = lses.double().logsumexp(0)
        same = torch.equal(lse.isneginf(), expected.isneginf())
        finite = expected.isfinite()
        error = float((out.double() - exact).norm() / exact.norm()) / torch.finfo(dtype).eps
        worst = max(worst, error, 0.0 if same else float("inf"))
        worst = max(worst, float((lse.double() - expected)[finite].abs().amax()) / LSE_ABSOLUTE * MERGE_ERROR)
    return {"error_eps": worst, "passed": worst < MERGE_ERROR}


def _interleaved(*, tiny: bool) -> list[Check]:
    # Kernels in turn, so that a run that is cut short has seen something of each.
    lists = [checks(variant, tiny=tiny) for variant in Variant]
    return [case for cases in zip(*lists, strict=True) for case in cases]


def _check_task(case: Check, device: torch.device) -> Task:
    def run() -> Record:
        seed = random.SystemRandom().randrange(2**31)
        record = checking.check(case, device, seed)
        return {
            "seed": seed,
            "variant": case.variant.value,
            "shape": case.shape.name,
            "dtype": case.shape.dtype,
            "kind": case.kind,
            "splits": case.splits,
            **record,
        }

    return Task(case.key, run)


def _ceilings(device: torch.device, *, tiny: bool) -> Record:
    measured = roofline.measure(device, tiny=tiny)
    return asdict(measured)


def _timing_tasks(shape: Shape, device: torch.device, ceilings: Ceilings | None) -> list[Task]:
    return [
        Task(f"time:{shape.name}:{contender.name}", partial(_try_time, contender, shape, device, ceilings))
        for contender in contenders(shape, Variant)
    ]


def _try_time(contender: Contender, shape: Shape, device: torch.device, ceilings: Ceilings | None) -> Record:
    try:
        return _time(contender, shape, device, ceilings)
    except RuntimeError as error:
        # What torch's attention cannot do on this device or shape with the backend that was asked for.
        if contender.variant is None and str(error).startswith(("No viable backend", "No available kernel")):
            return {"skipped": str(error).splitlines()[0].split(".")[0]}
        raise


def _time(contender: Contender, shape: Shape, device: torch.device, ceilings: Ceilings | None) -> Record:
    seed = zlib.crc32(shape.name.encode())
    one = contender.prepare(draw(shape, "white", device, seed))
    warm = timing.time_calls([one], device, seconds=0.15)
    # The set that is there is used again; more are drawn until they no longer fit into the cache.
    calls = [one] + [
        contender.prepare(draw(shape, "white", device, seed + number))
        for number in range(1, _sets(contender, shape, device))
    ]
    cold = timing.time_calls(calls, device) if len(calls) > 1 else warm
    work = contender.work(shape)
    record: Record = {
        "shape": shape.name,
        "contender": contender.name,
        "family": contender.family,
        "variant": contender.variant.value if contender.variant else None,
        "seconds": cold.seconds,
        "warm_seconds": warm.seconds,
        "spread": cold.spread,
        "how": cold.how,
        "sets": len(calls),
        "flop": work.flop,
        "moved_bytes": work.moved,
    }
    if ceilings is not None:
        floor = ceilings.floor(work)
        record |= {"floor_seconds": floor, "share": floor / cold.seconds}
    return record


def _sets(contender: Contender, shape: Shape, device: torch.device) -> int:
    moved = contender.work(shape).moved
    return 1 + min(MOST_SETS, math.ceil(COLD_FACTOR * machine.cache_bytes(device) / moved))
