"""`python -m bench.page`: docs/kernels.md, what the kernels take of a processor and what they should take in time.

Nothing here ran on a GPU: occupancy is arithmetic on what the compiler says, and times are modelled from data sheets.
Where a real run of these sources is committed, the page points to it and models nothing.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compile_gate import TABLE
from bench.roofline import Work, absorbed_work, cached_work
from bench.shapes import TIMED, Shape
from mplug_kernels.planner import xattn_plan
from mplug_kernels.results import Run, committed
from mplug_kernels.variants import HEAD_WIDTH, Variant

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"
MODELLED = 8
"""Shapes: the first of those that are timed."""
LAUNCH_SECONDS = 4e-6
"""Of a kernel, where nothing is queued before it."""
KERNELS = {
    Variant.KV: ("xattn_kv_kernel",),
    Variant.ABSORBED_TWO: ("absorbed_scores_kernel", "absorbed_mix_kernel"),
    Variant.ABSORBED_ONE: ("absorbed_one_kernel",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A GPU as its data sheet has it."""

    name: str
    architecture: int
    processors: int
    flops: float
    """Dense, bfloat16."""
    bytes_per_second: float


A100 = Device(name="A100 SXM 80 GB", architecture=80, processors=108, flops=312e12, bytes_per_second=2.039e12)
"""NVIDIA A100 80GB data sheet."""
H100 = Device(name="H100 SXM 80 GB", architecture=90, processors=132, flops=989e12, bytes_per_second=3.35e12)
"""NVIDIA H100 data sheet; `mma.sync` reaches a part of the arithmetic, which `calibration` sees."""

Row = dict[str, Any]

HEAD = """\
# Kernels

What `kernels/csrc` takes of a GPU, written by `PYTHONPATH=kernels python -m bench.page` out of
[compile_table.json](../kernels/bench/compile_table.json): nvcc {nvcc}, sources `{sources}`.
Every kernel's very source runs in the tests under a warp emulator; which of them runs by default on a GPU, committed
results decide (`mplug_kernels.results`). Real runs of these sources: {runs}.

## Room on a processor

Blocks that run side by side (occupancy), for sm_80 / sm_90 / sm_100; 0: too little shared memory, a smaller shape of
the same kernel takes its place. No kernel spills a register.
"""
TIMES = """\
## Times

Where no real run of these sources is committed, times are **modelled**. For {device}, in microseconds: floor = the
larger of arithmetic at {flops:.0f} TFLOP/s and traffic at {traffic:.2f} TB/s (data sheet); kernels = whole waves of
blocks, each with its tile's whole arithmetic, traffic, and {launch:.0f} us a launch, times what the same model was
short of in the real run: {factors}. bfloat16; attention alone, without projections.

| shape (images × rows × keys, width) | floor, cached | floor, absorbed | kv | absorbed, twice | absorbed, once |
|---|---|---|---|---|---|"""

READ = {
    "1687e7432c96": "[No barrier is missing](decisions/0009-a-hazard-without-a-name.md), as far as reading tells."
}
"""By the sources that were read: what is known of findings of NVIDIA's checker that are open."""
FINDINGS = """\
## Open findings

Of NVIDIA's checker, in real runs of these sources:
"""


def floor(work: Work, device: Device) -> float:
    """Seconds that no version can run under."""
    return max(work.flop / device.flops, work.moved / device.bytes_per_second)


def modelled(variant: Variant, shape: Shape, device: Device, blocks: int) -> float:
    """Seconds by waves of blocks, each with its whole tile's arithmetic, and by memory traffic.

    Args:
        variant: the kernel.
        shape: of the call.
        device: its ceilings.
        blocks: that a processor runs side by side.
    """
    rows = shape.rows if variant.absorbed else shape.beams * shape.tokens
    heads, width = (1, shape.width) if variant.absorbed else (shape.heads, HEAD_WIDTH)
    splits = variant.splits(shape.images, shape.rows, shape.keys, device.processors)
    items, _ = xattn_plan(
        range(shape.images), [shape.keys] * shape.images, rows, heads, variant.tiling(splits)
    )
    row_tile, key_tile = variant.tile
    keys = max(item.key_end - item.key_begin for item in items)
    flop = 4.0 * row_tile * -(-keys // key_tile) * key_tile * width
    at_once = device.processors * blocks
    waves = -(-len(items) // at_once)
    arithmetic = waves * blocks * flop / (device.flops / device.processors)
    work = absorbed_work(shape) if variant.absorbed else cached_work(shape)
    launches = len(KERNELS[variant]) + (splits > 1)
    return max(arithmetic, work.moved / device.bytes_per_second) + launches * LAUNCH_SECONDS


def calibration(variant: Variant, rows: Sequence[Row], runs: Sequence[Run]) -> float:
    """How many times the modelled time a kernel really took on an H100: the median over the shapes; 1 without a run."""
    shares = []
    for run in runs:
        if run.capability == (9, 0):
            seconds = {
                record["shape"]: float(record["seconds"])
                for record in run.content["timings"]
                if record["variant"] == variant.value
            }
            shares += [
                seconds[shape.name] / modelled(variant, shape, H100, _blocks_of(variant, shape, H100, rows))
                for shape in TIMED[:MODELLED]
                if shape.name in seconds
            ]
    return statistics.median(shares) if shares else 1.0


def page() -> str:
    """The whole page."""
    table = json.loads(TABLE.read_text())
    rows: list[Row] = table["rows"]
    runs = [run for run in committed() if run.content["source_hash"] == table["source_hash"]]
    head = HEAD.format(nvcc=table["nvcc"], sources=table["source_hash"][:12], runs=_links(runs))
    told = [*_findings(runs, READ.get(table["source_hash"][:12])), *_times(rows, A100, runs)]
    return "\n".join([head, *_occupancy(rows), "", *told, ""])


def _links(runs: Sequence[Run]) -> str:
    return ", ".join(f"[{run.name}](../kernels/bench/results/{run.name})" for run in runs) or "none"


def _findings(runs: Sequence[Run], read: str | None) -> list[str]:
    """What NVIDIA's checker found, and what is known of it; nothing where it found nothing."""
    told = []
    for run in runs:
        records = run.content["sanitizer"]
        watched = max((len(record.get("checked", ())) for record in records), default=0)
        for record in records:
            if not record.get("passed", True):
                tool, kernel = (*record["key"].split(":")[1:], "no kernel by name")[:2]
                said = "; ".join(record.get("faults", ())) or record.get("end", "no last words")
                said = re.sub(r"=+ ", "", said)
                cases = f"{len(record['checked'])} of {watched} cases came back"
                told.append(f"- {_links([run])}: {tool} of {kernel}, `{said}`; {cases}.")
    return [FINDINGS, *told, "", read or "Nothing more is known.", ""] if told else []


def _occupancy(rows: Sequence[Row]) -> Iterable[str]:
    yield "| kernel (bf16) | threads | shared memory, KiB | registers | blocks |"
    yield "|---|---|---|---|---|"
    for kernel in dict.fromkeys(row["kernel"] for row in rows if "bf16" in row["kernel"]):
        mine = {row["architecture"]: row for row in rows if row["kernel"] == kernel}
        first = next(iter(mine.values()))
        registers = " / ".join(str(row["registers"]) for row in mine.values())
        blocks = " / ".join(str(row["blocks"]) for row in mine.values())
        name = kernel.replace("bf16, ", "").replace("<bf16>", "")
        yield f"| `{name}` | {first['threads']} | {first['shared_bytes'] / 1024:.0f} | {registers} | {blocks} |"


def _times(rows: Sequence[Row], device: Device, runs: Sequence[Run]) -> Iterable[str]:
    factors = {variant: calibration(variant, rows, runs) for variant in Variant}
    said = ", ".join(f"{factor:.2f} ({variant.value})" for variant, factor in factors.items())
    yield TIMES.format(
        device=device.name,
        flops=device.flops / 1e12,
        traffic=device.bytes_per_second / 1e12,
        launch=LAUNCH_SECONDS * 1e6,
        factors=said,
    )
    for shape in TIMED[:MODELLED]:
        cells = [floor(cached_work(shape), device), floor(absorbed_work(shape), device)]
        cells += [
            factors[variant] * modelled(variant, shape, device, _blocks_of(variant, shape, device, rows))
            for variant in Variant
        ]
        name = f"{shape.images} × {shape.beams * shape.tokens} × {shape.keys}, {shape.width}"
        yield f"| {name} | {' | '.join(f'{1e6 * seconds:,.1f}' for seconds in cells)} |"


def _blocks_of(variant: Variant, shape: Shape, device: Device, rows: Sequence[Row]) -> int:
    """Side by side on a processor: of a variant's kernels the one that has least, of its instances the best."""
    return min(_blocks(kernel, shape, device, rows) for kernel in KERNELS[variant])


def _blocks(kernel: str, shape: Shape, device: Device, rows: Sequence[Row]) -> int:
    wanted = re.compile(rf"{kernel}<bf16(, (OneShape<)?{shape.width}\b.*)?>")
    fitting = (r for r in rows if r["architecture"] == device.architecture and wanted.match(r["kernel"]))
    return max(int(row["blocks"]) for row in fitting)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
