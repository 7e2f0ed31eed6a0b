"""The process of one training job: ``python -m mplug_services.jobs.child FOLDER``.

It reads ``order.json`` in the job's folder and trains as `mplug train --resume` does: a job that was begun before goes
on from its checkpoint. It ends with the process that started it, so that no two of them are at work on one job.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mplug_services.jobs.files import write_whole

if TYPE_CHECKING:
    from mplug.train.trainer import Trainer

logger = logging.getLogger(__name__)

NICENESS = 10
"""Searches and captions of the server go first."""


def main(folder: Path) -> int:
    """Do what is ordered; 0 where it succeeded, 1 where `result.json` says why not."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.nice(NICENESS)
    with (folder / "process.lock").open("w") as lock:
        # The process of a server that was killed may still be on its way out.
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = _train(folder)
    write_whole(folder / "result.json", json.dumps(result))
    return 1 if "error" in result else 0


def _leave_with_parent() -> None:
    """The other end of standard input is the parent's: it closes when the parent ends, however that is."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _train(folder: Path) -> dict[str, Any]:
    """The model's folder and metrics, or an error. Any: JSON."""
    from mplug.errors import MplugError

    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    try:
        run = _open(order, folder / "output")
        write_whole(folder / "steps", str(run.num_steps))
        best = run.fit()
        return {"folder": str(best.relative_to(folder)), "metrics": _best_metrics(run)}
    except MplugError as error:
        return {"error": str(error)}


# Any: JSON
def _open(order: dict[str, Any], output: Path) -> Trainer:
    from mplug.train import config, recipes
    from mplug.train.trainer import Trainer

    chosen = recipes.recipe(order["recipe"])
    settings = config.override(chosen.config(), order["overrides"])
    return Trainer(chosen.experiment(settings, _data(order["data"])), settings, output)


# Any: JSON; what a recipe is given
def _data(parts: list[tuple[str, float]]) -> Any:
    from mplug.train.readers import DataPart

    if [weight for _, weight in parts] == [1.0]:
        return Path(parts[0][0])
    return [DataPart(Path(place), weight) for place, weight in parts]


def _best_metrics(run: Trainer) -> dict[str, float]:
    """Of the checkpoint that was kept: the first of the best."""
    from mplug.train.run_state import read_log

    goal = run.experiment.goal
    best: dict[str, float] = {}
    for line in read_log(run.folder.log_file):
        metrics = line.get("metrics", {})
        if (
            line["step"] > 0
            and goal.metric in metrics
            and goal.better(metrics[goal.metric], best.get(goal.metric))
        ):
            best = metrics
    return best


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(main(Path(sys.argv[1]).absolute()))
