"""NVIDIA's compute-sanitizer over a few tiny shapes: each of its tools on each kernel, in a process of its own."""

from __future__ import annotations

import concurrent.futures
import itertools
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

from bench.supervising import Record, Setting, supervise
from mplug_kernels.variants import Variant

TOOLS = ("memcheck", "racecheck", "synccheck")
SUBJECTS = (*(variant.value for variant in Variant), "merge")
FOUND = 86
"""The exit status that the checker is told to give for errors."""
OPTIONS = {"memcheck": ("--report-api-errors", "no")}
"""Torch asks CUDA for things that it may not have, and goes on."""
PATIENCE = 150.0
"""Seconds without news: everything is slow under the checker."""
MOST_LINES = 20
"""Of what the checker says of a fault."""


def sanitize(keys: Sequence[str], setting: Setting, deadline: float) -> list[Record]:
    """Run every tool on every kernel, side by side.

    Args:
        keys: of the tasks to watch, `tasks.sanitizer_tasks`.
        setting: of the children.
        deadline: of `time.monotonic`.

    Returns:
        What each found: `passed`, or `skipped` and why.
    """
    checker = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    pairs = [pair for pair in itertools.product(TOOLS, SUBJECTS) if _of(keys, pair[1])]
    if checker is None or setting.device == "cpu":
        reason = "no compute-sanitizer" if checker is None else "no GPU"
        return [_named(tool, subject) | {"skipped": reason} for tool, subject in pairs]
    with concurrent.futures.ThreadPoolExecutor(len(pairs)) as pool:
        runs = [
            pool.submit(_run, checker, tool, subject, _of(keys, subject), setting, deadline)
            for tool, subject in pairs
        ]
        return [run.result() for run in runs]


def faults(said: str) -> list[str]:
    """What the checker said that is not its usual frame, without places of this machine."""
    lines = [line.removeprefix("=========").strip() for line in said.splitlines() if line.startswith("=====")]
    told = [line for line in lines if line and not re.match(r"COMPUTE-SANITIZER$|.*SUMMARY: 0 ", line)]
    return [re.sub(r"(/[\w.+-]+){2,}", "...", line)[:200] for line in told[:MOST_LINES]]


def _of(keys: Sequence[str], subject: str) -> list[str]:
    return [key for key in keys if subject in key.split(":")]


def _named(tool: str, subject: str) -> Record:
    variant = None if subject == "merge" else subject
    return {"key": f"sanitize:{tool}:{subject}", "tool": tool, "variant": variant}


def _run(checker: str, tool: str, subject: str, keys: list[str], setting: Setting, deadline: float) -> Record:
    start = time.monotonic()
    # The caching allocator would hide what is out of bounds of a tensor, but inside of its block.
    environment = {**setting.environment, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    records: dict[str, Record] = {}
    watched = setting
    for only_ours in (("--kernel-regex", "kns=xattn"), ()):
        prefix = (checker, "--tool", tool, "--error-exitcode", str(FOUND), *OPTIONS.get(tool, ()), *only_ours)
        watched = replace(
            setting,
            prefix=prefix,
            environment=environment,
            tiny=True,
            children=1,
            patience=PATIENCE,
            ends=[],
            outputs=[],
        )
        records = supervise(keys, watched, deadline)
        if any("failed" not in record for record in records.values()):
            break  # else the checker may not know the option
    return _named(tool, subject) | {"took_seconds": time.monotonic() - start} | judged(keys, records, watched)


def judged(keys: list[str], records: dict[str, Record], watched: Setting) -> Record:
    """What a tool's run comes to, from the records of the child that it watched."""
    end = (watched.ends or ["did not start"])[-1]
    seen = [key for key in keys if "failed" not in records.get(key, {"failed": ""})]
    if end.startswith("out of time"):
        return {"skipped": f"out of time after {len(seen)} of {len(keys)} cases"}
    clean = end.startswith("exit status 0;") and len(seen) == len(keys)
    broken = {key: record["failed"] for key, record in records.items() if "failed" in record}
    told = faults("\n".join(watched.outputs))
    extra = {} if clean else {"end": end, "broken": broken, "faults": told}
    return {"checked": seen, "passed": clean, **extra}
