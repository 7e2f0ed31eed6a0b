"""What the server does for one training job around its process: the order before, its words and its model after."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mplug_services.errors import Failure, ServiceError, StatusCode, invalid_argument
from mplug_services.jobs.files import write_whole
from mplug_services.jobs.recipes import FindModel, Order, read_order
from mplug_services.jobs.records import TrainSpec
from mplug_services.jobs.roots import JobRoots
from mplug_services.jobs.upload import ROWS_FILE

TASK_FIELD = "options.train"
"""Path of the task in a request."""

_PATH = re.compile(r"""(?<![\w.:/-])/(?:[^\s/:,;'"()]+/)+([^\s/:,;'"()]+)""")


def check_spec(spec: TrainSpec, roots: JobRoots, find_model: FindModel) -> Order:
    """Look at what a client wants before anything is sent; blocks.

    Raises:
        ServiceError: as `read_order`; data that is not there or may not be read, rows that cannot be sent for it.
    """
    order = read_order(spec.recipe, spec.settings, roots, find_model, TASK_FIELD)
    for number, data in enumerate(spec.data):
        roots.resolve(data.name, f"{TASK_FIELD}.data[{number}].name")
    if not order.row_task and not spec.data:
        message = f"{spec.recipe} reads a folder, which cannot be sent; name one under a job root"
        raise invalid_argument(f"{TASK_FIELD}.data", message, reason="NO_DATA")
    return order


def give_order(folder: Path, spec: TrainSpec, roots: JobRoots, find_model: FindModel) -> Order:
    """Write down what a job's process is to do; names are looked at again, as the disk may have changed.

    Raises:
        ServiceError: as `check_spec`.
    """
    order = check_spec(spec, roots, find_model)
    data = [(str(roots.resolve(each.name, TASK_FIELD)), each.weight) for each in spec.data]
    for name in ("result.json", "steps"):
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    content = {
        "recipe": order.recipe,
        "overrides": order.overrides,
        "data": data or [(str(folder / "data" / ROWS_FILE), 1.0)],
    }
    write_whole(folder / "order.json", json.dumps(content, ensure_ascii=False))
    return order


def read_result(folder: Path, code: int, hide: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What a process said at its end. Any: JSON.

    Args:
        folder: of the job.
        code: that the process ended with.
        hide: texts of the server's disk, and what a client is told in their place.

    Raises:
        ServiceError: it failed.
    """
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _failed("TRAINING_CRASHED", StatusCode.INTERNAL, _crash(code)) from None
    if "error" in result:
        rows = str(folder / "data" / ROWS_FILE)
        message = without_paths(result["error"], [(rows, "rows"), (str(folder), "job"), *hide])
        raise _failed("TRAINING_REFUSED", StatusCode.INVALID_ARGUMENT, message)
    return result


def without_paths(message: str, names: Iterable[tuple[str, str]]) -> str:
    """A message without the server's paths: by their names, or else by what they end in."""
    for path, name in names:
        message = message.replace(path, name)
    return _PATH.sub(r"\1", message)


def _crash(code: int) -> str:
    if code < 0:
        return f"the training process was ended by {signal.Signals(-code).name}; its machine may be short of memory"
    return f"the training process ended with code {code}; the server's operator finds more in the job's process.log"


def _failed(reason: str, code: StatusCode, message: str) -> ServiceError:
    return ServiceError(Failure(code=code, reason=reason, message=message))
