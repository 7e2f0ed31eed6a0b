"""The worker that owns the models of a device and runs quanta; torch stops here and in `runners/`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch

from mplug.freezing import freeze
from mplug.text_loading import module_of
from mplug_services.kind_queue import Quantum
from mplug_services.runners.batch import RunningBatch
from mplug_services.runners.kernels import attention_kernels
from mplug_services.runners.models import Models, describe, make_runners
from mplug_services.runners.removed import RemovedRunner
from mplug_services.runners.runner import Runner
from mplug_services.scheduler import Scheduler
from mplug_services.served_model import AttentionKernel, ServedModel
from mplug_services.work import EngineStoppedError, WorkItem, WorkKind, WorkResult

logger = logging.getLogger(__name__)

RunnerKey = tuple[str, WorkKind]
"""Name of the models, empty for those it began with, and what is done."""


class ModelWorker:
    """A thread that loads models, warms them up and runs the scheduler's quanta until it is stopped.

    Args:
        load: makes the models; called once, in the thread.
        scheduler: where the work comes from; nobody else takes quanta from it.
        num_threads: torch's threads for one forward pass; 0 leaves torch's own choice. Torch has one such
            number per process, so the last worker started sets it.
        device: where `load` puts the models.
    """

    def __init__(
        self,
        load: Callable[[], Models],
        scheduler: Scheduler,
        *,
        num_threads: int = 0,
        device: str = "cpu",
    ) -> None:
        self.scheduler = scheduler
        self.kernels: Sequence[AttentionKernel] = ()
        """What computes cross-attention on the device; known once it is `ready`."""
        self.ready: Future[Mapping[str, ServedModel]] = Future()
        """By task, once all are loaded and warm; has the error of one that could not be loaded."""
        self._load = load
        self._num_threads = num_threads
        self._device = device
        self._wake = threading.Event()
        self._quanta = 0
        self._runners: dict[RunnerKey, Runner] = {}
        self._changing = threading.Lock()
        self._suspended: dict[Quantum, RunningBatch] = {}
        self._thread = threading.Thread(target=self._run, name="model-worker", daemon=True)

    def start(self) -> None:
        """Start loading."""
        self._thread.start()

    def submit(self, items: Sequence[WorkItem]) -> list[Future[WorkResult]]:
        """Queue a batch, whole or not at all; errors as in `Scheduler.reserve`."""
        self.scheduler.reserve(len(items))
        return self.enqueue(items)

    def enqueue(
        self, items: Sequence[WorkItem], *, progress: Callable[[int, object], None] | None = None
    ) -> list[Future[WorkResult]]:
        """Queue items for which room was reserved with the scheduler; see `Scheduler.enqueue`."""
        futures = self.scheduler.enqueue(items, time.monotonic(), progress=progress)
        self._wake.set()
        return futures

    def add(self, name: str, load: Callable[[], Models]) -> Mapping[str, ServedModel]:
        """Load further models, warm them up and put them in service; blocks, and the worker goes on meanwhile.

        Args:
            name: of all of them; work items reach them by it. Those that had it are replaced.
            load: makes the models, by task.

        Raises:
            MplugError: they cannot be loaded; whatever `load` says.
        """
        runners, served = _prepare(load)
        self._change(name, runners)
        return {task: replace(model, name=name) for task, model in served.items()}

    def remove(self, name: str) -> None:
        """Take added models out of service: batches that were begun end, items that wait fail."""
        self._change(name, {})

    def _change(self, name: str, runners: Mapping[WorkKind, Runner]) -> None:
        with self._changing:
            others = {key: runner for key, runner in self._runners.items() if key[0] != name}
            # Replaced as a whole: the worker reads it without the lock.
            self._runners = {**others, **{(name, kind): runner for kind, runner in runners.items()}}

    def stop(self, timeout: float | None = None) -> bool:
        """Take no more work, finish what was admitted, end the thread.

        Args:
            timeout: seconds to wait for that; what is left then fails with `EngineStoppedError`.

        Returns:
            Whether everything admitted was finished.
        """
        self.scheduler.close()
        self._wake.set()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        finished = not self._thread.is_alive()
        self.scheduler.fail_all(EngineStoppedError("the server is shutting down"))
        self._wake.set()
        return finished

    def _run(self) -> None:
        try:
            if self._num_threads > 0:
                torch.set_num_threads(self._num_threads)
            runners, served = _prepare(self._load)
            self.kernels = attention_kernels(self._device)
        except Exception as error:
            self.scheduler.fail_all(EngineStoppedError("the model could not be loaded"))
            self.ready.set_exception(error)
            return
        self._change("", runners)
        self.ready.set_result(served)
        try:
            self._serve()
        except BaseException:
            logger.critical("the model worker ended by an error", exc_info=True)
            self.scheduler.fail_all(EngineStoppedError("the model worker has ended by an error"))
            raise

    def _serve(self) -> None:
        while True:
            # Cleared before looking, so that what is queued meanwhile wakes the wait.
            self._wake.clear()
            started = time.monotonic()
            quantum = self.scheduler.next_quantum(started)
            if quantum is not None:
                self._run_quantum(quantum, started)
            elif self.scheduler.closed and self.scheduler.occupied == 0:
                return
            else:
                # After the close, reserved room may be released without a wake-up.
                self._wake.wait(0.02 if self.scheduler.closed else None)

    def _run_quantum(self, quantum: Quantum, started: float) -> None:
        self._quanta += 1
        batch = self._suspended.pop(quantum, None)
        if batch is None:
            key = quantum.entries[0].item.model, quantum.kind
            runner = self._runners.get(key) or RemovedRunner(quantum.kind)
            batch = RunningBatch(runner, quantum, self._quanta)
        goes_on = batch.advance()
        seconds = time.monotonic() - started
        if goes_on:
            self._suspended[quantum] = batch
            self.scheduler.suspend(quantum, seconds)
        else:
            self.scheduler.complete(quantum, seconds)
        # Accounted for first: who has a result finds it done.
        batch.flush()


def _prepare(load: Callable[[], Models]) -> tuple[dict[WorkKind, Runner], dict[str, ServedModel]]:
    models = load()
    started = time.monotonic()
    # Before they are frozen: fingerprints read every tensor in torch's own layout.
    served = {task: describe(task, model) for task, model in models.items()}
    for model in models.values():
        freeze(module_of(model))
    runners = make_runners(models)
    for runner in runners.values():
        for items in runner.warm_up():
            _run_alone(runner, items)
    names = ", ".join(f"{model.name} ({task})" for task, model in served.items())
    logger.info("%s warm after %.2f s", names or "no model", time.monotonic() - started)
    return runners, served


def _run_alone(runner: Runner, items: Sequence[WorkItem]) -> None:
    """Run a batch from end to end; raises its first error."""

    def deliver(_: int, value: object) -> None:
        if isinstance(value, Exception):
            raise value

    # A generator holds no context of its own: the mode must hold for each of its quanta, and for nothing between.
    with torch.inference_mode():
        for _ in runner.run(items, deliver, lambda _: True):
            pass
