"""The worker that owns the model and runs quanta; the only serving file that imports torch.

Legend: B items of a quantum, R image side, L text tokens, E joint embedding.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray

import mplug
from mplug.contrastive import ContrastiveModel
from mplug_services.scheduler import Entry, Quantum, Scheduler
from mplug_services.served_model import ServedModel
from mplug_services.work import (
    EmbedImage,
    EmbedText,
    EngineStoppedError,
    NonFiniteError,
    WorkItem,
    WorkKind,
    WorkResult,
)

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


def model_loader(source: str, device: str, dtype: str) -> Callable[[], ContrastiveModel]:
    """A function that loads a retrieval model; it is called in the worker's thread.

    Its errors are those of `mplug.load`.
    """
    return lambda: mplug.load(source, task="retrieval", device=device, dtype=dtype)


class ModelWorker:
    """A thread that loads a model, warms it up and runs the scheduler's quanta until it is stopped.

    Args:
        load: makes the model; called once, in the thread.
        scheduler: where the work comes from; nobody else takes quanta from it.
        num_threads: torch's threads for one forward pass; 0 leaves torch's own choice. Torch has one such
            number per process, so the last worker started sets it.
    """

    def __init__(
        self, load: Callable[[], ContrastiveModel], scheduler: Scheduler, *, num_threads: int = 0
    ) -> None:
        self.scheduler = scheduler
        self.ready: Future[ServedModel] = Future()
        """Done once the model is loaded and warm; has the error when it could not be loaded."""
        self._load = load
        self._num_threads = num_threads
        self._wake = threading.Event()
        self._quanta = 0
        self._thread = threading.Thread(target=self._run, name="model-worker", daemon=True)

    def start(self) -> None:
        """Start loading."""
        self._thread.start()

    def submit(self, items: Sequence[WorkItem]) -> list[Future[WorkResult]]:
        """Queue a batch, whole or not at all; errors as in `Scheduler.reserve`."""
        self.scheduler.reserve(len(items))
        return self.enqueue(items)

    def enqueue(self, items: Sequence[WorkItem]) -> list[Future[WorkResult]]:
        """Queue items for which room was reserved with the scheduler."""
        futures = self.scheduler.enqueue(items, time.monotonic())
        self._wake.set()
        return futures

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
            model = self._prepare_model()
        except Exception as error:
            self.scheduler.fail_all(EngineStoppedError("the model could not be loaded"))
            self.ready.set_exception(error)
            return
        self.ready.set_result(_describe(model))
        try:
            self._serve(model)
        except BaseException:
            logger.critical("the model worker ended by an error", exc_info=True)
            self.scheduler.fail_all(EngineStoppedError("the model worker has ended by an error"))
            raise

    def _prepare_model(self) -> ContrastiveModel:
        if self._num_threads > 0:
            torch.set_num_threads(self._num_threads)
        model = self._load()
        started = time.monotonic()
        with torch.inference_mode():
            for items in _warm_up_batches(model):
                _forward(model, items)
        logger.info("%s is warm after %.2f s", model.name, time.monotonic() - started)
        return model

    def _serve(self, model: ContrastiveModel) -> None:
        while True:
            # Cleared before looking, so that what is queued meanwhile wakes the wait.
            self._wake.clear()
            started = time.monotonic()
            quantum = self.scheduler.next_quantum(started)
            if quantum is not None:
                self._run_quantum(model, quantum, started)
            elif self.scheduler.closed and self.scheduler.occupied == 0:
                return
            else:
                # After the close, reserved room may be released without a wake-up.
                self._wake.wait(0.02 if self.scheduler.closed else None)

    def _run_quantum(self, model: ContrastiveModel, quantum: Quantum, started: float) -> None:
        self._quanta += 1
        items = [entry.item for entry in quantum.entries]
        with torch.inference_mode():
            outcomes = embed_batch(model, items)
        seconds = time.monotonic() - started
        self.scheduler.complete(quantum, seconds)
        for entry, outcome in zip(quantum.entries, outcomes, strict=True):
            _settle(entry, outcome, started, seconds, self._quanta)


def embed_batch(model: ContrastiveModel, items: Sequence[WorkItem]) -> list[Vectors | Exception]:
    """One forward pass, with the retreats when it fails: a vector float32 (E,) or an error for each item.

    Out of device memory: two halves, once. Any other error: item by item, so that only the culprit fails.
    """
    try:
        return _checked(_forward(model, items))
    except torch.cuda.OutOfMemoryError as error:
        return _embed_halves(model, items, error)
    except Exception as error:
        if len(items) > 1:
            return [_embed_alone(model, item) for item in items]
        logger.error("a forward pass failed", exc_info=True)
        return [error]


def _embed_halves(
    model: ContrastiveModel, items: Sequence[WorkItem], error: Exception
) -> list[Vectors | Exception]:
    if len(items) == 1:
        return [error]
    logger.warning("a batch of %d did not fit into the device's memory; halving it", len(items))
    torch.cuda.empty_cache()
    middle = len(items) // 2
    outcomes: list[Vectors | Exception] = []
    for half in (items[:middle], items[middle:]):
        try:
            outcomes += _checked(_forward(model, half))
        except Exception as again:
            outcomes += [again] * len(half)
    return outcomes


def _embed_alone(model: ContrastiveModel, item: WorkItem) -> Vectors | Exception:
    try:
        return _checked(_forward(model, [item]))[0]
    except Exception as error:
        logger.error("a forward pass of one item failed", exc_info=True)
        return error


def _forward(model: ContrastiveModel, items: Sequence[WorkItem]) -> Vectors:
    """Items of one kind -> float32 (B, E)."""
    if items[0].kind is WorkKind.IMAGE:
        pixels = np.stack([item.pixels for item in items if isinstance(item, EmbedImage)])
        vectors = model.embed_images(torch.from_numpy(pixels).to(model.device))
    else:
        ids, mask = _pad([item for item in items if isinstance(item, EmbedText)], model.tokenizer.pad_id)
        vectors = model.embed_texts(ids.to(model.device), mask.to(model.device))
    return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)


def _pad(texts: Sequence[EmbedText], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids int64 (B, L) and mask bool (B, L), True = attend."""
    length = max(len(text.ids) for text in texts)
    ids = np.full((len(texts), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(texts), length), dtype=np.bool_)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = text.ids
        mask[row, : len(text.ids)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _checked(vectors: Vectors) -> list[Vectors | Exception]:
    return [
        # A copy, so that an item's result does not keep the whole batch in memory.
        row.copy()
        if np.isfinite(row).all()
        else NonFiniteError("the model gave NaN or infinity for this item")
        for row in vectors
    ]


def _settle(entry: Entry, outcome: Vectors | Exception, started: float, seconds: float, quantum: int) -> None:
    if isinstance(outcome, Exception):
        entry.future.set_exception(outcome)
    else:
        entry.future.set_result(WorkResult(outcome, started - entry.submitted, seconds, quantum))


def _warm_up_batches(model: ContrastiveModel) -> list[list[WorkItem]]:
    """Both encoders, alone and in a batch: the first pass of a shape allocates, and on a GPU compiles."""
    side = model.preprocess.image_size
    image = EmbedImage(pixels=np.zeros((3, side, side), dtype=np.uint8))
    text = EmbedText(ids=model.tokenizer.encode("warm up").ids)
    return [[image], [image] * 4, [text], [text] * 4]


def _describe(model: ContrastiveModel) -> ServedModel:
    return ServedModel(
        name=model.name,
        fingerprint=model.fingerprint,
        embed_dim=model.embed_dim,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        num_parameters=model.num_parameters,
        licence=model.licence,
        image_size=model.preprocess.image_size,
        tokenizer=model.tokenizer,
    )
