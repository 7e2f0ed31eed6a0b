"""The one training loop: an experiment's steps, their log, checkpoints and the best model."""

from dataclasses import replace
from pathlib import Path

import torch

from mplug.errors import MplugError
from mplug.train import parallel
from mplug.train.config import LoopConfig
from mplug.train.curves import draw_curves
from mplug.train.experiment import Experiment, Exporting, Preparing
from mplug.train.reporting import Reporter
from mplug.train.run_state import Progress, RunFolder, read_log
from mplug.train.stepping import Stepper, StepResult
from mplug.train.throughput import Meter, measure_peak


class Trainer:
    """One run in one output folder; a second `fit` on the same folder goes on where the first stopped.

    Args:
        experiment: what is trained.
        config: how.
        output: where checkpoints, log and the best model go.
        resume: whether an existing run in `output` may be continued.

    Raises:
        MplugError: `output` holds a run and `resume` is false, or a run of another configuration; a run of no steps.
    """

    def __init__(
        self, experiment: Experiment, config: LoopConfig, output: Path, *, resume: bool = True
    ) -> None:
        self.experiment = experiment
        self.config = config
        self.folder = RunFolder(output)
        self.num_steps = config.max_steps or config.epochs * experiment.steps_per_epoch
        if experiment.steps_per_epoch < 1 or self.num_steps < 1:
            raise MplugError("a run of no steps: an epoch needs at least one whole batch of training data.")
        if parallel.rank() == 0:
            self.folder.claim(config, resume=resume)

    def fit(self) -> Path:
        """Trains to the end.

        Returns:
            The folder of the best model: in the form that it is shipped in, where the experiment has one.

        Raises:
            MplugError: settings that do not fit each other, a loss that is no number, a goal that is not measured.
        """
        saved = self.folder.load()
        prepares = saved is None and isinstance(self.experiment, Preparing)
        if isinstance(self.experiment, Preparing) and prepares:
            self.experiment.prepare()
        stepper = Stepper(self.experiment, self.config, self.num_steps)
        progress = Progress()
        if saved is not None:
            progress, state = saved
            stepper.restore(state)
        with self._reporter(progress) as report:
            if prepares:
                report.metrics(0, self.evaluate())
                self._save(stepper, progress)
            self._loop(stepper, progress, report)
            return self._finish(report)

    def _reporter(self, progress: Progress) -> Reporter:
        writes = parallel.rank() == 0
        if writes:
            self.folder.forget_after(progress.step)
        board = self.folder.path / "tensorboard" if self.config.tensorboard else None
        return Reporter(
            self.folder.log_file, (progress.step, self.num_steps), tensorboard=board, silent=not writes
        )

    def _loop(self, stepper: Stepper, progress: Progress, report: Reporter) -> None:
        meter = Meter(self._peak(stepper.device))
        while progress.step < self.num_steps:
            with meter.step():
                result = stepper.step(progress.step)
            meter.add(result.counts)
            progress = replace(progress, step=progress.step + 1)
            report.advance(progress.step)
            if progress.step % self.config.log_every == 0:
                report.losses(progress.step, _values(result) | meter.take())
            if self._evaluates_at(progress.step):
                progress = self._keep_best(progress, report)
            if self._evaluates_at(progress.step) or progress.step % self.config.checkpoint_every == 0:
                self._save(stepper, progress)

    def _peak(self, device: torch.device) -> float:
        dtype = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32
        return measure_peak(device, dtype)

    def _evaluates_at(self, step: int) -> bool:
        every = self.config.evaluate_every
        return (
            step % self.experiment.steps_per_epoch == 0
            or (every > 0 and step % every == 0)
            or step == self.num_steps
        )

    def _keep_best(self, progress: Progress, report: Reporter) -> Progress:
        metrics = self.evaluate()
        report.metrics(progress.step, metrics)
        goal = self.experiment.goal
        if goal.metric not in metrics:
            raise MplugError(f"no metric {goal.metric!r} to choose by; there are {', '.join(metrics)}.")
        if not goal.better(metrics[goal.metric], progress.best_metric):
            return progress
        with parallel.whole(self.experiment.model):
            if parallel.rank() == 0:
                self.folder.keep_best(self.experiment.save)
        return replace(progress, best_metric=metrics[goal.metric])

    def evaluate(self) -> dict[str, float]:
        """The experiment's metrics, measured by the first process for all."""
        with parallel.whole(self.experiment.model):
            own = dict(self.experiment.evaluate()) if parallel.rank() == 0 else {}
            metrics: dict[str, float] = parallel.from_first(own)
        return metrics

    def _save(self, stepper: Stepper, progress: Progress) -> None:
        state = stepper.state()
        if parallel.rank() == 0:
            self.folder.save(progress, state)

    def _finish(self, report: Reporter) -> Path:
        exports = isinstance(self.experiment, Exporting)
        if parallel.rank() == 0:
            if isinstance(self.experiment, Exporting):
                self.folder.export_best(self.experiment.export)
            if not draw_curves(read_log(self.folder.log_file), self.folder.path / "curves.png"):
                report.say("curves.png is not drawn: pip install 'mplug-serve[train]'")
        return self.folder.export if exports else self.folder.best


def _values(result: StepResult) -> dict[str, object]:
    return {
        "loss": sum(result.losses.values()),
        "losses": result.losses,
        "lr": result.lr,
        "grad_norm": result.grad_norm,
    }
