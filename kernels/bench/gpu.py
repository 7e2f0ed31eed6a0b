"""`python -m bench.gpu`: is it right, and how fast is it, on this machine; writes a result file and prints a table.

A compiled library is taken from `$MPLUG_KERNELS_LIBRARY` or from beside `mplug_kernels`, else compiled where nvcc is.
Checks come first, with NVIDIA's checker beside them; then, with the GPU to itself, times; then whole models. What
fails leaves its record and the others go on; what the minutes given do not allow is listed as not reached.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench import machine, sanitizing, wholes
from bench.roofline import Ceilings
from bench.shapes import timed
from bench.supervising import Record, Setting, supervise
from bench.table import table
from bench.tasks import all_tasks, sanitizer_tasks
from bench.worker import describe
from mplug_kernels import build, library
from mplug_kernels.results import SCHEMA

RESULTS = Path(__file__).parent / "results"
CHECK_SHARE, TIME_SHARE = 0.35, 0.8
"""Of the minutes: when checks, and when timings, must be over."""


UNKNOWN = "unknown"
"""The source hash of a library that does not say what it was made of; such results choose nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    out: Path
    minutes: float
    device: str
    tiny: bool
    only: tuple[str, ...]
    """Kinds of tasks; none = all."""


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when nothing was wrong or broken."""
    options = _parse(arguments)
    start = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    result = new_result(options, torch.device(options.device))
    path = options.out / file_name(result)
    for stage in (_prepare, _check, _time, _whole):
        stage(result, options, start)
        print(f"{stage.__name__}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        path.write_text(to_json(result), encoding="utf-8")
    print(table(result))
    print(f"{path.name}: {time.monotonic() - start:.0f} s")
    return 0 if result["complete"] else 1


def new_result(options: Options, device: torch.device) -> Record:
    """A result file's content before anything was done."""
    return {
        "schema": SCHEMA,
        "source_hash": build.source_hash(),
        "library": False,
        "build": "",
        **machine.describe(device),
        "date": datetime.date.today().isoformat(),
        "tiny": options.tiny,
        "complete": False,
        "ceilings": None,
        "merge": None,
        "shapes": {shape.name: asdict(shape) for shape in timed(tiny=options.tiny)},
        "checks": [],
        "sanitizer": [],
        "timings": [],
        "wholes": [],
        "skipped": [],
        "failures": [],
        "not_reached": [],
    }


def to_json(result: Record) -> str:
    """A result as it is committed: a line for each record, no more digits than were measured."""
    lines = []
    for key, value in result.items():
        rounded = json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.4g}"))
        if isinstance(value, list) and value:
            inner = ",\n".join("  " + json.dumps(record) for record in rounded)
            lines.append(f'"{key}": [\n{inner}\n ]')
        else:
            lines.append(f'"{key}": {json.dumps(rounded)}')
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def file_name(result: Record) -> str:
    """Device and sources."""
    device = re.sub(r"[^a-z0-9]+", "-", result["device"]["name"].lower()).strip("-")
    return f"{device}-{result['source_hash'][:12]}.json"


def _prepare(result: Record, options: Options, start: float) -> None:
    found, reason = library.find()
    current = found is not None and library.hash_of(found) == result["source_hash"]
    if not current and not os.environ.get(library.VARIABLE) and options.device == "cuda":
        compiled, reason = _compile()
        found = compiled or found
    result["library"], result["build"] = found is not None, reason
    if found is not None:
        os.environ[library.VARIABLE] = str(found)
        result["source_hash"] = library.hash_of(found) or UNKNOWN


def _compile() -> tuple[Path | None, str]:
    start = time.monotonic()
    major, minor = torch.cuda.get_device_capability()
    known = [a for a in build.ARCHITECTURES if a <= 10 * major + minor]
    try:
        build.build(architectures=tuple(known[-1:]))
    except (build.BuildError, OSError) as error:
        print(error, file=sys.stderr)
        return None, describe(error)
    library.mark(build.LIBRARY, build.source_hash())
    return build.LIBRARY, f"compiled here in {time.monotonic() - start:.0f} s"


def _check(result: Record, options: Options, start: float) -> None:
    setting, deadline = _setting(options, result), start + 60 * options.minutes * CHECK_SHARE
    device = torch.device("cpu")  # of no matter to keys
    keys = _keys(options, device, ("ceilings",))
    _file(result, keys, supervise(keys, setting, deadline))
    keys = _keys(options, device, ("merge", "check"))
    watched = [task.key for task in sanitizer_tasks(device)] if "check" in _kinds(options) else []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sanitized = pool.submit(sanitizing.sanitize, watched, setting, deadline) if watched else None
        _file(result, keys, supervise(keys, setting, deadline))
        if sanitized is not None:
            result["sanitizer"] = sanitized.result()


def _time(result: Record, options: Options, start: float) -> None:
    keys = _keys(options, torch.device("cpu"), ("time",))
    deadline = start + 60 * options.minutes * TIME_SHARE
    _file(result, keys, supervise(keys, _setting(options, result), deadline))


def _whole(result: Record, options: Options, start: float) -> None:
    device = torch.device("cpu")
    keys = [task.key for task in wholes.tasks(device, tiny=options.tiny) if "whole" in _kinds(options)]
    deadline = start + 60 * options.minutes
    _file(result, keys, supervise(keys, _setting(options, result), deadline))
    passed = [record.get("passed", True) for record in (*result["checks"], *result["sanitizer"])]
    result["complete"] = not result["failures"] and not result["not_reached"] and all(passed)


def _setting(options: Options, result: Record) -> Setting:
    ceilings = result["ceilings"]
    setting = Setting(options.device, options.tiny)
    return replace(setting, ceilings=ceilings) if ceilings else setting


KINDS = ("ceilings", "merge", "check", "time", "whole")


def _kinds(options: Options) -> tuple[str, ...]:
    return options.only or KINDS


def _keys(options: Options, device: torch.device, kinds: tuple[str, ...]) -> list[str]:
    wanted = set(kinds) & set(_kinds(options))
    return [task.key for task in all_tasks(device, tiny=options.tiny) if task.kind in wanted]


def _file(result: Record, keys: list[str], records: dict[str, Record]) -> None:
    """Put records where they belong in the result."""
    lists = {"check": "checks", "time": "timings", "whole": "wholes"}
    for key in keys:
        record, kind = records.get(key), key.split(":", 1)[0]
        if record is None:
            result["not_reached"].append(key)
        elif "failed" in record:
            result["failures"].append(record)
        elif "skipped" in record:
            result["skipped"].append(record)
        elif kind in lists:
            result[lists[kind]].append(record)
        elif kind == "ceilings":
            result["ceilings"] = {field.name: record[field.name] for field in dataclasses.fields(Ceilings)}
        else:
            result["merge"] = record


def _parse(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--minutes", type=float, default=8.0, help="what it may take")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes: a trial of the program itself")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=(), help="kinds of pieces")
    given: Any = parser.parse_args(arguments)
    return Options(given.out, given.minutes, given.device, given.tiny, tuple(given.only))


if __name__ == "__main__":
    sys.exit(main())
