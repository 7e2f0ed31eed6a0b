"""Checkpoints of a run, and its log.

```
output/
  config.json              the run's whole configuration
  log.jsonl                a line every few steps, and one for each evaluation
  checkpoints/step-000460/ model.safetensors, optimizer.pt, state.json; the last two are kept
  output_best/             the best model so far, loadable by mplug.load
  export/                  output_best as int8 rows, written at the end
```

A checkpoint is written to a temporary folder and renamed: a run killed at any moment finds a whole one.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mplug.retrieval import RetrievalModel

_KEEP = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; with the seed this determines everything that follows."""

    step: int = 0
    """Steps done."""
    best_metric: float = -1.0


class RunFolder:
    """The output folder of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "output_best"
        self.export = path / "export"
        self._checkpoints = path / "checkpoints"
        self._checkpoints.mkdir(parents=True, exist_ok=True)

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = sorted(self._checkpoints.glob("step-*[0-9]"))
        return found[-1] if found else None

    def save(self, progress: Progress, model: RetrievalModel, optimizer: torch.optim.Optimizer) -> None:
        """Writes a checkpoint and drops all but the newest ones."""
        target = self._checkpoints / f"step-{progress.step:06d}"
        temporary = target.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary / "model.safetensors")
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        (temporary / "state.json").write_text(json.dumps(asdict(progress)))
        _sync(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        for old in sorted(self._checkpoints.glob("step-*[0-9]"))[:-_KEEP]:
            shutil.rmtree(old)

    def restore(self, model: RetrievalModel, optimizer: torch.optim.Optimizer) -> Progress:
        """Loads the newest checkpoint into model and optimizer; a fresh run starts at step 0."""
        folder = self.latest()
        if folder is None:
            return Progress()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        return Progress(**json.loads((folder / "state.json").read_text()))

    def log(self, **values: Any) -> None:
        """Appends one line of JSON."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
