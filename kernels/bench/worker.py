"""One child process: does the tasks that it is told on standard input, and writes a line of JSON before and after each.

A kernel that fails may take the process with it; the line before says which one it was.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from typing import Any, TextIO

import torch

from bench import wholes
from bench.roofline import Ceilings
from bench.tasks import Task, all_tasks, sanitizer_tasks


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when every task was tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--ceilings", type=json.loads, default=None)
    parser.add_argument("--log", required=True)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    ceilings = Ceilings(**options.ceilings) if options.ceilings else None
    tasks = known_tasks(device, tiny=options.tiny, ceilings=ceilings)
    keys = sys.stdin.read().split()
    with open(options.log, "a", encoding="utf-8") as log:
        for key in keys:
            work(tasks[key], device, log)
    return 0


def known_tasks(device: torch.device, *, tiny: bool, ceilings: Ceilings | None = None) -> dict[str, Task]:
    """Every task by its key."""
    found = all_tasks(device, tiny=tiny, ceilings=ceilings) + wholes.tasks(
        device, tiny=tiny, ceilings=ceilings
    )
    found += sanitizer_tasks(device)
    return {task.key: task for task in found}


@torch.inference_mode()
def work(task: Task, device: torch.device, log: TextIO) -> None:
    """Do one task; what it raises becomes its record."""
    _write(log, {"key": task.key, "state": "begun"})
    start = time.perf_counter()
    try:
        record = task.run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    except Exception as error:
        record = {"failed": describe(error)}
    record = {"key": task.key, "state": "done", "took_seconds": time.perf_counter() - start, **record}
    _write(log, record)


def describe(error: BaseException) -> str:
    """Its first line, without places of this machine."""
    lines = str(error).strip().splitlines() or [""]
    return re.sub(r"(/[\w.+-]+){2,}", "...", f"{type(error).__name__}: {lines[0]}")[:300]


def _write(log: TextIO, record: dict[str, Any]) -> None:
    log.write(json.dumps(record) + "\n")
    log.flush()


if __name__ == "__main__":
    sys.exit(main())
