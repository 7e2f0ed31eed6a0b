"""The model's thread: results, retreats from failures, loading, draining."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mplug.errors import CheckpointError
from mplug.retrieval import RetrievalModel
from mplug_services.config import ModelSource
from mplug_services.engine import ModelWorker
from mplug_services.runners.embed import embed_batch
from mplug_services.runners.models import Models, model_loader
from mplug_services.work import (
    DeadlineExceededError,
    EngineStoppedError,
    NonFiniteError,
    WorkItem,
    WorkResult,
)
from services.serving import GatedModel, build_model, image_item, make_scheduler, make_worker, text_item

WAIT = 30.0


@pytest.fixture(scope="module")
def model() -> RetrievalModel:
    return build_model()


class FaultyModel(GatedModel):
    """The tiny model, that cannot bear pictures of some values."""

    def __init__(self, *, raises: int = -1, nan: int = -1, memory_for: int = 1000) -> None:
        super().__init__()
        self.raises, self.nan, self.memory_for = raises, nan, memory_for

    def embed_images(self, pixels: Tensor) -> Tensor:
        values = pixels[:, 0, 0, 0]
        self.passes.append(("image", len(pixels)))
        if len(pixels) > self.memory_for:
            raise torch.cuda.OutOfMemoryError("out of memory")
        if (values == self.raises).any():
            raise RuntimeError("cannot bear it")
        vectors = RetrievalModel.embed_images(self, pixels)
        return torch.where((values == self.nan)[:, None], torch.nan, vectors)


def images(*values: int) -> list[WorkItem]:
    return [image_item(value) for value in values]


def outcomes(model: FaultyModel, items: list[WorkItem]) -> list[Any]:
    """Exceptions as they are, vectors as True."""
    model.passes.clear()
    with torch.inference_mode():
        results = embed_batch(model, items)
    return [each if isinstance(each, Exception) else bool(np.isfinite(each).all()) for each in results]


def test_served_vectors_are_the_models_own(model: RetrievalModel) -> None:
    worker = make_worker(model)
    worker.start()
    pictures = [image_item(value) for value in (3, 90, 200)]
    texts = [text_item(length) for length in (4, 9)]
    futures = worker.submit(pictures) + worker.submit(texts)
    results = [future.result(WAIT) for future in futures]
    assert worker.stop(WAIT)
    with torch.inference_mode():
        expected = [model.embed_images(torch.from_numpy(item.pixels)[None]).numpy()[0] for item in pictures]
        expected += [
            model.embed_texts(torch.from_numpy(item.ids)[None], torch.ones(1, len(item.ids)).bool()).numpy()[
                0
            ]
            for item in texts
        ]
    for result, vector in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.vector, vector, atol=1e-5)
        assert result.vector.dtype == np.float32
        assert result.vector.base is None  # its own memory, not the batch's
        assert result.queue_seconds >= 0
        assert result.forward_seconds > 0


def test_what_is_known_of_the_model(model: RetrievalModel) -> None:
    worker = make_worker(model)
    worker.start()
    served = worker.ready.result(WAIT)["retrieval"]
    worker.stop(WAIT)
    assert (served.name, served.embed_dim, served.image_size) == ("tiny", 16, 32)
    assert (served.device, served.dtype) == ("cpu", "float32")
    assert served.fingerprint == model.fingerprint
    assert served.tokenizer.encode("piece7 what").ids.tolist() == [101, 7, 100, 102]


def test_items_of_one_quantum_share_one_pass() -> None:
    gated = GatedModel()
    worker = make_worker(gated, make_scheduler(images=4))
    worker.start()
    worker.ready.result(WAIT)
    gated.passes.clear()
    results = [future.result(WAIT) for future in worker.submit(images(1, 2, 3, 4, 5))]
    worker.stop(WAIT)
    assert gated.passes == [("image", 4), ("image", 1)]
    assert [result.quantum for result in results[:4]] == [results[0].quantum] * 4
    assert results[4].quantum == results[0].quantum + 1


def test_both_encoders_are_warm_before_it_is_ready() -> None:
    gated = GatedModel()
    gated.shut()
    worker = make_worker(gated)
    worker.start()
    assert gated.arrived.acquire(timeout=WAIT)
    assert not worker.ready.done()
    gated.gate.set()
    worker.ready.result(WAIT)
    assert {kind for kind, _ in gated.passes} == {"image", "text"}
    worker.stop(WAIT)


def test_only_the_culprit_of_a_batch_fails() -> None:
    faulty = FaultyModel(raises=7)
    first, second, third = outcomes(faulty, images(1, 7, 2))
    assert (first, third) == (True, True)
    assert isinstance(second, RuntimeError)
    assert [count for _, count in faulty.passes] == [3, 1, 1, 1]


def test_a_lone_culprit_is_not_tried_twice() -> None:
    faulty = FaultyModel(raises=7)
    (only,) = outcomes(faulty, images(7))
    assert isinstance(only, RuntimeError)
    assert len(faulty.passes) == 1


def test_nan_is_an_error_of_its_item() -> None:
    first, second = outcomes(FaultyModel(nan=7), images(7, 1))
    assert isinstance(first, NonFiniteError)
    assert second is True


def test_out_of_memory_halves_the_batch_once() -> None:
    faulty = FaultyModel(memory_for=2)
    assert outcomes(faulty, images(1, 2, 3, 4)) == [True] * 4
    assert [count for _, count in faulty.passes] == [4, 2, 2]
    hopeless = FaultyModel(memory_for=1)
    failed = outcomes(hopeless, images(1, 2, 3, 4))
    assert all(isinstance(each, torch.cuda.OutOfMemoryError) for each in failed)
    assert [count for _, count in hopeless.passes] == [4, 2, 2]
    (alone,) = outcomes(FaultyModel(memory_for=0), images(1))
    assert isinstance(alone, torch.cuda.OutOfMemoryError)


def test_a_culprit_in_one_half_leaves_the_other_half_alone() -> None:
    kinds = [type(each) for each in outcomes(FaultyModel(memory_for=2, raises=7), images(1, 2, 7, 4))]
    assert kinds == [bool, bool, RuntimeError, RuntimeError]


def test_a_failing_item_does_not_stop_the_worker() -> None:
    worker = make_worker(FaultyModel(raises=7))
    worker.start()
    bad = worker.submit(images(7))[0]
    assert isinstance(bad.exception(WAIT), RuntimeError)
    assert worker.submit(images(1))[0].result(WAIT).vector.shape == (16,)
    worker.stop(WAIT)


def test_a_stop_finishes_what_was_admitted() -> None:
    gated = GatedModel()
    worker = make_worker(gated, make_scheduler(images=1))
    worker.start()
    worker.ready.result(WAIT)
    gated.shut()
    futures = worker.submit(images(1, 2, 3))
    worker.scheduler.reserve(1)  # a request that is still being decoded
    stopped: Future[bool] = Future()
    stopper = threading.Thread(target=lambda: stopped.set_result(worker.stop(WAIT)))
    stopper.start()
    assert gated.arrived.acquire(timeout=WAIT)
    while not worker.scheduler.closed:
        pass
    with pytest.raises(EngineStoppedError):
        worker.submit(images(5))
    futures += worker.enqueue(images(4))
    gated.gate.set()
    assert stopped.result(WAIT) is True
    assert [future.result(0).vector.shape for future in futures] == [(16,)] * 4


def test_a_stop_that_runs_out_of_time_fails_what_is_left() -> None:
    gated = GatedModel()
    worker = make_worker(gated, make_scheduler(images=1))
    worker.start()
    worker.ready.result(WAIT)
    gated.shut()
    futures = worker.submit(images(1, 2))
    assert gated.arrived.acquire(timeout=WAIT)
    assert worker.stop(0.05) is False
    assert isinstance(futures[1].exception(WAIT), EngineStoppedError)
    gated.gate.set()
    assert futures[0].result(WAIT).vector.shape == (16,)


def test_a_model_that_cannot_be_loaded_says_so() -> None:
    def load() -> Models:
        raise CheckpointError("no such folder")

    worker = ModelWorker(load, make_scheduler())
    waiting = worker.submit(images(1))
    worker.start()
    with pytest.raises(CheckpointError, match="no such folder"):
        worker.ready.result(WAIT)
    assert isinstance(waiting[0].exception(WAIT), EngineStoppedError)
    assert worker.stop(WAIT)


def test_a_worker_that_never_started_stops() -> None:
    assert make_worker(build_model()).stop() is True


def test_expired_items_cost_no_pass() -> None:
    gated = GatedModel()
    worker = make_worker(gated)
    waiting = worker.submit([image_item(1, deadline=0.0), image_item(2)])
    worker.start()
    assert isinstance(waiting[0].exception(WAIT), DeadlineExceededError)
    result: WorkResult = waiting[1].result(WAIT)
    assert result.quantum == 1
    worker.stop(WAIT)


def test_the_loader_loads_by_name() -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        model_loader({"retrieval": ModelSource("nowhere")}, "cpu", "float32")()
