"""Which compiled kernel may run by default: what the committed results of real runs say, and nothing else.

`bench.gpu` writes a file for a device; those that are committed lie in kernels/bench/results. A kernel counts as right
on an architecture if a file of that architecture, of the very sources that the library was compiled from, says that
every check passed and that NVIDIA's checker, where it ran, found nothing. It is taken for a call if that file also
timed a shape near the call's, where it beat everything of torch's that computes the same.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mplug_kernels.variants import DTYPES, HEAD_WIDTH, WIDTHS, Variant

SCHEMA = 1
"""Version of the files' layout."""
NEAR = 2.0
"""A timed shape is near a call if images, rows and keys each differ by at most this factor."""
FOLDERS = (Path(__file__).parent / "measured", Path(__file__).resolve().parents[1] / "bench" / "results")
"""Where committed results lie: in a wheel, in a checkout."""
_KEYS = {
    "schema": int,
    "source_hash": str,
    "device": dict,
    "versions": dict,
    "date": str,
    "tiny": bool,
    "complete": bool,
    "shapes": dict,
    "checks": list,
    "sanitizer": list,
    "timings": list,
    "wholes": list,
    "skipped": list,
    "failures": list,
    "not_reached": list,
}
_TIMING_KEYS = (
    "shape",
    "contender",
    "family",
    "variant",
    "seconds",
    "warm_seconds",
    "floor_seconds",
    "share",
)
_CHECK_KEYS = (
    "variant",
    "shape",
    "kind",
    "splits",
    "seed",
    "error",
    "same_type_error",
    "lse_error",
    "passed",
)

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of attention, as far as the choice of a kernel goes."""

    absorbed: bool
    """To raw tokens, or to keys and values."""
    images: int
    rows: int
    """Query rows of one image: heads, sequences and tokens."""
    keys: int
    """Of one image."""
    width: int
    """Of an image's rows: heads times 64 where they are keys."""
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Decision:
    """What to run, and why."""

    variant: Variant | None
    """None: plain torch."""
    splits: int
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """One result file."""

    name: str
    content: Record

    @property
    def capability(self) -> tuple[int, int] | None:
        """Of the device; None for a trial on a CPU."""
        found = self.content["device"].get("capability")
        return None if found is None else (found[0], found[1])


def problems(content: Any) -> list[str]:
    """What is wrong with a file's content; nothing if it is a result."""
    if not isinstance(content, dict):
        return ["not an object"]
    found = [
        f"{key} is missing or no {kind.__name__}"
        for key, kind in _KEYS.items()
        if not isinstance(content.get(key), kind)
    ]
    if found:
        return found
    if content["schema"] != SCHEMA:
        found.append(f"schema is {content['schema']}, not {SCHEMA}")
    for kind, keys in (("checks", _CHECK_KEYS), ("timings", _TIMING_KEYS)):
        for record in content[kind]:
            missing = [key for key in keys if key not in record]
            if missing:
                found.append(f"{kind}: {record.get('key')} lacks {', '.join(missing)}")
    for record in content["timings"]:
        if record.get("shape") not in content["shapes"]:
            found.append(f"timings: {record.get('key')} is of an unknown shape")
        if not all(0 < record.get(key, 0) < math.inf for key in ("seconds", "warm_seconds", "share")):
            found.append(f"timings: {record.get('key')} has a time or share that cannot be")
    return found


def read(path: Path) -> Run:
    """A result file.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if wrong := problems(content):
        raise ValueError(f"{path.name} is no result file: {'; '.join(wrong[:3])}")
    return Run(path.name, content)


@functools.cache
def committed() -> tuple[Run, ...]:
    """All results that ship."""
    paths = [path for folder in FOLDERS if folder.is_dir() for path in sorted(folder.glob("*.json"))]
    return tuple(read(path) for path in paths)


def wrong(variant: Variant, run: Run) -> str | None:
    """Why a run does not show that a kernel is right; None if it does."""
    checks = [record for record in run.content["checks"] if record["variant"] == variant.value]
    failed = [record for record in checks if not record["passed"]]
    broken = [r for r in run.content["failures"] if r["key"].startswith(f"check:{variant.value}:")]
    missed = [key for key in run.content["not_reached"] if key.startswith(f"check:{variant.value}:")]
    faults = [
        record["tool"]
        for record in run.content["sanitizer"]
        # Of a record that does not say which kernel it is of, every kernel may be the one.
        if not record.get("passed", True) and record.get("variant", variant.value) == variant.value
    ]
    if run.content["tiny"] or not checks:
        return f"{run.name} did not check it"
    if failed or broken or missed:
        return f"{run.name}: {len(failed)} checks failed, {len(broken)} broke, {len(missed)} were not reached"
    return f"{run.name}: {', '.join(faults)} found faults" if faults else None


def right(
    variant: Variant, capability: tuple[int, int], source_hash: str | None, runs: Sequence[Run]
) -> tuple[Run | None, str]:
    """The run that shows a kernel to be right on an architecture; or None, and why there is none."""
    architecture = f"sm_{capability[0]}{capability[1]}"
    if source_hash is None:
        return None, "the library does not say what it was compiled from"
    mine = [run for run in runs if run.capability == capability]
    current = [run for run in mine if run.content["source_hash"] == source_hash]
    if not current:
        kind = "of other sources" if mine else "at all"
        return None, f"no committed result on {architecture}" + (f" but {kind}" if mine else f" {kind}")
    reasons = [wrong(variant, run) for run in current]
    for run, reason in zip(current, reasons, strict=True):
        if reason is None:
            return run, f"right on {architecture}: {run.name}"
    return None, str(reasons[0])


def decide(call: Call, capability: tuple[int, int], source_hash: str | None, runs: Sequence[Run]) -> Decision:
    """The fastest kernel that is known to be right for a call, if it is known to beat plain torch there."""
    if call.dtype not in DTYPES or (call.width not in WIDTHS and call.absorbed) or call.width % HEAD_WIDTH:
        return Decision(
            None, 1, f"not compiled for {str(call.dtype).removeprefix('torch.')} of width {call.width}"
        )
    reasons, found = [], list[tuple[float, Decision]]()
    for variant in Variant:
        if variant.absorbed is call.absorbed:
            run, reason = right(variant, capability, source_hash, runs)
            timed = None if run is None else _nearest(variant, call, run)
            if run is not None and timed is None:
                reason = f"{run.name} timed no shape near this one"
            elif run is not None and timed is not None:
                ours, theirs, splits, name = timed
                reason = f"{name}: {1e6 * ours:.1f} us, torch {1e6 * theirs:.1f} us ({run.name})"
                if ours < theirs:
                    found.append((ours, Decision(variant, splits, reason)))
            reasons.append(f"{variant.value}: {reason}")
    if found:
        return min(found, key=lambda pair: pair[0])[1]
    return Decision(None, 1, "; ".join(reasons))


def _nearest(variant: Variant, call: Call, run: Run) -> tuple[float, float, int, str] | None:
    """Seconds of a kernel and of torch at the nearest timed shape, the kernel's best splits, and the shape's name."""
    family = "absorbed" if call.absorbed else "cached"
    mine = [record for record in run.content["timings"] if record["family"] == family]
    near: dict[str, float] = {}
    for record in mine:
        if record["variant"] == variant.value:
            distance = _distance(call, run.content["shapes"][record["shape"]])
            if distance is not None:
                near[record["shape"]] = distance
    if not near:
        return None
    name = min(near, key=lambda shape: near[shape])
    here = [record for record in mine if record["shape"] == name]
    ours = min((r for r in here if r["variant"] == variant.value), key=lambda r: float(r["seconds"]))
    theirs = [float(record["seconds"]) for record in here if record["variant"] is None]
    if not theirs:
        return None
    return float(ours["seconds"]), min(theirs), int(ours["contender"].rsplit("_", 1)[1]), name


def _distance(call: Call, shape: Record) -> float | None:
    if shape["dtype"] != str(call.dtype).removeprefix("torch.") or shape["width"] != call.width:
        return None
    rows = shape["width"] // HEAD_WIDTH * shape["beams"] * shape["tokens"]
    pairs = ((call.images, shape["images"]), (call.rows, rows), (call.keys, shape["keys"]))
    steps = [abs(math.log(mine / theirs, NEAR)) for mine, theirs in pairs]
    return None if max(steps) > 1 + 1e-9 else sum(steps)
