"""The short table that a run prints last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


def table(result: Record) -> str:
    """Checks by kernel, the checker's tools, then times by shape and family: the best of torch, the best of ours."""
    device, ceilings = result["device"], result.get("ceilings") or {}
    lines = [f"{device['name']}, torch {result['versions']['torch']}, sources {result['source_hash'][:12]}"]
    if "flops" in ceilings:
        copied, read = (ceilings[f"{kind}_bytes_per_second"] / 1e12 for kind in ("copy", "read"))
        multiplied = ceilings["flops"] / 1e12
        lines.append(f"ceilings: copy {copied:.2f}, read {read:.2f} TB/s, product {multiplied:.0f} TFLOP/s")
    lines += _check_lines(result["checks"])
    lines += _sanitizer_lines(result["sanitizer"])
    lines += _time_lines(result["timings"])
    lines += [_whole_line(record) for record in result["wholes"]]
    lines += [
        f"{record['key']}: skipped, {record['skipped'][:90]}"
        for record in result["skipped"]
        if not record["key"].startswith("time:")  # what torch's backends cannot do is in the file
    ]
    failures = result["failures"]
    lines += [f"FAILED {record['key']}: {record['failed'][:110]}" for record in failures[:12]]
    if len(failures) > 12:
        lines.append(f"and {len(failures) - 12} more failures")
    return "\n".join([*lines, f"not reached: {len(result['not_reached'])}"])


def _check_lines(checks: list[Record]) -> Iterable[str]:
    for variant in sorted({record["variant"] for record in checks}):
        mine = [record for record in checks if record["variant"] == variant]
        wrong = [record["key"] for record in mine if not record["passed"]]
        ratio = max(record["error"] / max(record["same_type_error"], 1e-12) for record in mine)
        poisoned = sum(record["poisoned"] for record in mine)
        yield (
            f"{variant:13} {len(mine) - len(wrong)}/{len(mine)} right, error at most {ratio:.2f} of plain torch's, "
            f"{poisoned} poisoned"
        )
        yield from (f"  WRONG {key}" for key in wrong[:6])


def _sanitizer_lines(records: list[Record]) -> Iterable[str]:
    for tool in dict.fromkeys(record["tool"] for record in records):
        mine = [record for record in records if record["tool"] == tool]
        skipped = sorted({record["skipped"] for record in mine if "skipped" in record})
        ran = [record for record in mine if "passed" in record]
        clean = sum(record["passed"] for record in ran)
        yield f"{tool}: {clean} of {len(ran)} kernels clean" + "".join(f"; skipped, {why}" for why in skipped)
        for record in ran:
            if not record["passed"]:
                yield f"  {record['key']}: {'; '.join([record['end'], *record['faults'][:3]])[:300]}"


def _time_lines(timings: list[Record]) -> Iterable[str]:
    if timings:
        yield f"{'us (cold / warm)':30} {'family':9} {'torch':36} {'ours':38} share"
    shapes = list(dict.fromkeys(record["shape"] for record in timings))
    for shape in shapes:
        for family in ("cached", "absorbed", "whole"):
            mine = [r for r in timings if r["shape"] == shape and r["family"] == family]
            torchs = [record for record in mine if record["variant"] is None]
            ours = [record for record in mine if record["variant"] is not None]
            best = _best(ours)
            share = f"{best['share']:.0%}" if best and "share" in best else ""
            yield f"{shape:30} {family:9} {_entry(_best(torchs)):36} {_entry(best):38} {share}"


def _best(records: list[Record]) -> Record | None:
    return min(records, key=lambda record: float(record["seconds"]), default=None)


def _entry(record: Record | None) -> str:
    if record is None:
        return "-"
    return f"{1e6 * record['seconds']:.1f} / {1e6 * record['warm_seconds']:.1f} {record['contender']}"


def _whole_line(record: Record) -> str:
    return f"{record['key']}: {record['summary']}"
