"""What a run says of itself: lines of JSON, the terminal, and TensorBoard where it is asked for.

A line of ``log.jsonl`` is of a step, ``{"step": 20, "loss": …, "losses": {…}, "lr": {…}, "grad_norm": …,
"seconds_per_step": …, "mfu": …}`` with ``tokens_per_second`` and the like where an experiment counts them, or of an
evaluation, ``{"step": 20, "metrics": {…}}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mplug.errors import MplugError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Values = Mapping[str, Any]


class Reporter:
    """Where a run reports to; a context manager.

    Args:
        log_file: appended to.
        steps: done so far, and of the whole run.
        tensorboard: folder of TensorBoard's files, if they are wanted.
        silent: whether another process reports.

    Raises:
        MplugError: TensorBoard is wanted and not installed.
    """

    def __init__(
        self,
        log_file: Path,
        steps: tuple[int, int],
        *,
        tensorboard: Path | None = None,
        silent: bool = False,
    ) -> None:
        self._log_file = log_file
        self._num_steps = steps[1]
        self._silent = silent
        self._board = _open_board(tensorboard, steps[0]) if tensorboard and not silent else None
        console = Console(stderr=True)
        self._bar = _bar(console) if console.is_terminal and not silent else None
        self._task = self._bar.add_task("", total=steps[1], completed=steps[0]) if self._bar else None

    def __enter__(self) -> Reporter:
        """Shows the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the bar away and closes the files."""
        if self._bar:
            self._bar.stop()
        if self._board:
            self._board.close()

    def advance(self, step: int) -> None:
        """Moves the bar to a number of steps done."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step)

    def losses(self, step: int, values: Values) -> None:
        """A line for a step; see the module's docstring."""
        self._write({"step": step, **values})
        terms = "  ".join(f"{name} {value:.4f}" for name, value in values["losses"].items())
        self.say(f"step {step}/{self._num_steps}  {terms}  {values['seconds_per_step']:.2f} s/step")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line for an evaluation."""
        self._write({"step": step, "metrics": dict(metrics)})
        for name, value in metrics.items():
            self.say(f"  {name}: {value:.4g}")

    def _write(self, line: dict[str, Any]) -> None:
        if self._silent:
            return
        with self._log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self._board:
            for name, value in _scalars(line):
                self._board.add_scalar(name, value, line["step"])

    def say(self, text: str) -> None:
        """A line for the terminal alone."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self._silent:
            print(text, file=sys.stderr, flush=True)


def _scalars(line: Values) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in value.items())
        elif name != "step":
            yield name, value


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _open_board(folder: Path, step: int) -> SummaryWriter:
    if find_spec("tensorboard") is None:
        raise MplugError("tensorboard=True needs its package: pip install 'mplug-serve[train]'.")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
