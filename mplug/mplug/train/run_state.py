"""The output folder of a run: its claim, its checkpoints and its best model.

```
output/
  config.json              the run's whole configuration
  log.jsonl                a line every few steps, and one for each evaluation (see reporting.py)
  checkpoints/step-000460/ state.pt (model, optimizer, experiment), progress.json; the last two are kept
  output_best/             the best model so far, loadable by mplug.load
  export/                  output_best in the form it is shipped in, where the experiment has one
  curves.png               losses and metrics, drawn at the end
```

Folders are written beside their place and renamed: a run killed at any moment finds whole ones.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mplug.errors import MplugError
from mplug.train.config import LoopConfig

_KEEP = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; with the seed this determines everything that follows."""

    step: int = 0
    """Steps done."""
    best_metric: float | None = None
    """None: nothing was evaluated yet."""


class RunFolder:
    """The output folder of a run, made where needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "output_best"
        self.export = path / "export"
        self.log_file = path / "log.jsonl"
        self._claim = path / "config.json"
        self._checkpoints = path / "checkpoints"
        self._checkpoints.mkdir(parents=True, exist_ok=True)

    def claim(self, config: LoopConfig, *, resume: bool = True) -> None:
        """Writes down whose folder this is, or finds it written; errors as `check`."""
        self.check(config, resume=resume)
        if not self._claim.exists():
            _write(self._claim, _as_text(config))

    def check(self, config: LoopConfig, *, resume: bool = True) -> None:
        """Whether a run may be here; writes nothing.

        Raises:
            MplugError: the folder holds a run and `resume` is false, or a run of another configuration.
        """
        if not self._claim.exists():
            return
        if not resume:
            raise MplugError(
                f"{self.path} holds a run already: continue it with --resume, or name another --output."
            )
        if self._claim.read_text(encoding="utf-8") != _as_text(config):
            raise MplugError(f"{self.path} holds a run of another configuration: name another --output.")

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self._steps()
        return found[-1] if found else None

    def _steps(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*[0-9]"), key=lambda path: int(path.name[5:]))

    def save(self, progress: Progress, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint and drops all but the newest ones.

        Args:
            progress: names the checkpoint.
            state: tensors and plain values.
        """

        def write(folder: Path) -> None:
            folder.mkdir()
            torch.save(dict(state), folder / "state.pt")
            (folder / "progress.json").write_text(json.dumps(asdict(progress)))

        _write_folder(self._checkpoints / f"step-{progress.step:06d}", write)
        for old in self._steps()[:-_KEEP]:
            shutil.rmtree(old)

    def load(self) -> tuple[Progress, dict[str, Any]] | None:
        """The newest checkpoint, its tensors on the CPU; None for a fresh run."""
        folder = self.latest()
        if folder is None:
            return None
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
        return progress, torch.load(folder / "state.pt", map_location="cpu", weights_only=True)

    def keep_best(self, write: Callable[[Path], None]) -> None:
        """Puts a model in the place of the best one.

        Args:
            write: writes it to the folder that it is given.
        """
        _write_folder(self.best, write)

    def export_best(self, write: Callable[[Path, Path], None]) -> None:
        """Writes the best model in another form.

        Args:
            write: reads it from its first folder, and writes to its second.
        """
        _write_folder(self.export, lambda folder: write(self.best, folder))

    def forget_after(self, step: int) -> None:
        """Drops the log's lines of steps that a killed run had done beyond its last checkpoint."""
        if self.log_file.exists():
            kept = [line for line in read_log(self.log_file) if line["step"] <= step]
            _write(self.log_file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a power failure left half written is left out."""
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Where a run dies between the two renames the folder is missing: the resumed run writes it again."""
    temporary, old = target.with_suffix(".tmp"), target.with_suffix(".old")
    for rest in (temporary, old):
        shutil.rmtree(rest, ignore_errors=True)
    write(temporary)
    _sync(temporary)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    _sync_entry(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _as_text(config: LoopConfig) -> str:
    return json.dumps(asdict(config), indent=2, ensure_ascii=False)


def _write(file: Path, text: str) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    _sync_entry(temporary)
    temporary.replace(file)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync_entry(path)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
