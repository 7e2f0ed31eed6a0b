"""Every kernel compiled for every architecture: registers, spills, shared memory, and how many blocks run side by side.

`python -m bench.compile_gate` writes compile_table.json beside this file, if it is not that of these sources already.
It needs nvcc, and no GPU. Limits are those of NVIDIA's CUDA programming guide, "Technical specifications per compute
capability".
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mplug_kernels import build

TABLE = Path(__file__).parent / "compile_table.json"
SIZES = Path(__file__).parent / "kernel_sizes.cu"
REGISTERS, REGISTER_UNIT = 65536, 256
"""Of a processor; what a warp's registers are rounded up to."""
MOST_THREADS, MOST_BLOCKS = 2048, 32
"""Side by side on a processor."""
SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
"""Bytes of a processor, by architecture; each block takes RESERVED more than it asks for."""
RESERVED = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One kernel on one architecture."""

    kernel: str
    architecture: int
    registers: int
    spilled_bytes: int
    threads: int
    """Of a block."""
    shared_bytes: int
    """Of a block, dynamic."""
    blocks: int
    """Side by side on a processor; 0 where the architecture has too little shared memory for one."""


def blocks_side_by_side(architecture: int, registers: int, threads: int, shared_bytes: int) -> int:
    """How many blocks a processor runs at a time (occupancy)."""
    per_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    # A processor has four register files, and a warp stays in one.
    warps = REGISTERS // 4 // per_warp * 4
    by_shared = SHARED[architecture] // (shared_bytes + RESERVED)
    return min(warps * 32 // threads, MOST_THREADS // threads, MOST_BLOCKS, by_shared)


def measure() -> dict[str, Any]:
    """Compile all; the table.

    Raises:
        BuildError: no nvcc, or what it said.
    """
    sizes = _sizes()
    with tempfile.TemporaryDirectory() as folder:
        usages = build.build(Path(folder) / "library.so")
    rows = []
    for usage in usages:
        threads, shared = _size_of(usage.kernel, sizes)
        rows.append(
            Row(
                kernel=_short(usage.kernel),
                architecture=usage.architecture,
                registers=usage.registers,
                spilled_bytes=usage.spill_stores + usage.spill_loads,
                threads=threads,
                shared_bytes=shared,
                blocks=blocks_side_by_side(usage.architecture, usage.registers, threads, shared),
            )
        )
    return {"source_hash": build.source_hash(), "nvcc": _version(), "rows": [asdict(row) for row in rows]}


def problems(table: dict[str, Any]) -> list[str]:
    """What breaks the budget: spills, and kernels of which not one block fits where a smaller one is no stand-in."""
    found = []
    for row in table["rows"]:
        where = f"{row['kernel']} on sm_{row['architecture']}"
        if row["spilled_bytes"]:
            found.append(f"{where} spills {row['spilled_bytes']} bytes")
        if row["blocks"] < 1 and not _has_stand_in(row, table["rows"]):
            found.append(f"{where} does not fit")
    return found


def _has_stand_in(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    # What the launch falls back to: the same kernel, type and width in another shape.
    def family(kernel: str) -> str:
        return re.sub(r"(OneShape<\d+).*", r"\1", kernel)

    return any(
        other["blocks"] >= 1
        and other["architecture"] == row["architecture"]
        and family(other["kernel"]) == family(row["kernel"])
        for other in rows
    )


def _sizes() -> dict[tuple[str, str], tuple[int, int]]:
    """Threads and shared bytes by kernel and template arguments (`-` for any)."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "sizes"
        command = [str(build.find_nvcc()), "-std=c++17", f"-I{build.SOURCES}", str(SIZES), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise build.BuildError(done.stdout + done.stderr)
        said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    lines = (line.split() for line in said.splitlines())
    return {(name, shape): (int(threads), int(shared)) for name, shape, threads, shared in lines}


def _size_of(kernel: str, sizes: dict[tuple[str, str], tuple[int, int]]) -> tuple[int, int]:
    name = kernel.split("<")[0]
    shape = re.search(r"OneShape<([\d, ]+)>", kernel)
    return sizes[name, shape[1].replace(" ", "") if shape else "-"]


def _short(kernel: str) -> str:
    return (
        kernel.split("(")[0].replace("> >", ">>").replace("__nv_bfloat16", "bf16").replace("__half", "half")
    )


def _version() -> str:
    said = subprocess.run([build.find_nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V([\d.]+)", said)
    return found[1] if found else "unknown"


def main() -> int:
    """Make the table anew where the sources have changed; 1 where it breaks the budget."""
    if TABLE.exists() and json.loads(TABLE.read_text())["source_hash"] == build.source_hash():
        table = json.loads(TABLE.read_text())
    else:
        table = measure()
        rows = ",\n".join("  " + json.dumps(row) for row in table.pop("rows"))
        head = json.dumps(table)[1:-1]
        TABLE.write_text(f'{{{head},\n "rows": [\n{rows}\n ]}}\n', encoding="utf-8")
        table = json.loads(TABLE.read_text())
    for problem in problems(table):
        print(problem, file=sys.stderr)
    return 1 if problems(table) else 0


if __name__ == "__main__":
    sys.exit(main())
