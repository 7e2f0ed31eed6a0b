"""Models that are added to a running engine, and taken out again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mplug.checkpoints import native
from mplug.errors import CheckpointError, MplugError
from mplug_services.embedder import Embedder
from mplug_services.engine import ModelWorker
from mplug_services.engine_seam import AddedModels, WorkQueue
from mplug_services.errors import ServiceError
from mplug_services.named_models import NamedModel, NamedModels, Users, loadable_tasks
from mplug_services.runners.models import Models
from mplug_services.served_model import ServedModel
from mplug_services.work import ModelRemovedError
from services.serving import GatedModel, build_model, image_item, make_scheduler, make_worker

WAIT = 30.0


def other_model() -> GatedModel:
    """A model of other weights than `build_model`'s."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        return GatedModel()


def load(model: Any) -> Callable[[], Models]:
    return lambda: {"retrieval": model}


def test_items_go_to_their_own_models() -> None:
    worker = make_worker(build_model())
    worker.start()
    worker.ready.result(WAIT)
    other = other_model()
    served = worker.add("other", load(other))
    assert (served["retrieval"].name, served["retrieval"].fingerprint) == ("other", other.fingerprint)
    added = AddedModels(worker, "other")
    assert added.scheduler is worker.scheduler
    worker.scheduler.reserve(6)
    items = [image_item(value) for value in (1, 2, 3)]
    other.passes.clear()
    own, others = worker.enqueue(items), added.enqueue(items)
    own_vectors = np.stack([future.result(WAIT).vector for future in own])
    other_vectors = np.stack([future.result(WAIT).vector for future in others])
    assert sum(count for _, count in other.passes) == 3, "no item of another model is in its batches"
    assert not np.allclose(own_vectors, other_vectors, atol=1e-3)
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([item.pixels for item in items]))
        np.testing.assert_allclose(build_model().embed_images(pixels).numpy(), own_vectors, atol=1e-5)
        np.testing.assert_allclose(other.embed_images(pixels).numpy(), other_vectors, atol=1e-5)
    worker.stop(WAIT)


def test_serving_goes_on_while_a_model_is_added() -> None:
    worker = make_worker(build_model())
    worker.start()
    worker.ready.result(WAIT)

    def load_slowly() -> Models:
        (result,) = worker.submit([image_item(5)])
        assert result.result(WAIT).vector.shape == (16,)
        return {"retrieval": other_model()}

    worker.add("other", load_slowly)
    worker.stop(WAIT)


def test_items_of_a_model_that_was_removed_say_so() -> None:
    gated = GatedModel()
    worker = make_worker(gated)
    worker.start()
    worker.ready.result(WAIT)
    worker.add("other", load(other_model()))
    gated.shut()
    worker.scheduler.reserve(2)
    own = worker.enqueue([image_item(1)])
    assert gated.arrived.acquire(timeout=WAIT)
    others = AddedModels(worker, "other").enqueue([image_item(1)])
    worker.remove("other")
    gated.gate.set()
    with pytest.raises(ModelRemovedError, match="'other'"):
        others[0].result(WAIT)
    assert own[0].result(WAIT).vector.shape == (16,)
    worker.stop(WAIT)


def test_a_model_that_cannot_be_loaded_is_its_caller_s_error_alone() -> None:
    worker = make_worker(build_model())
    worker.start()
    worker.ready.result(WAIT)

    def fail() -> Models:
        raise CheckpointError("nothing there")

    with pytest.raises(CheckpointError):
        worker.add("other", fail)
    (result,) = worker.submit([image_item(1)])
    assert result.result(WAIT).vector.shape == (16,)
    worker.stop(WAIT)


class CountingWorker(ModelWorker):
    """Without models of its own; remembers what it was asked to load."""

    def __init__(self) -> None:
        super().__init__(dict, make_scheduler())
        self.loads: list[str] = []

    def add(self, name: str, load: Callable[[], Models]) -> Mapping[str, ServedModel]:
        self.loads.append(name)
        return super().add(name, load)


class Folders:
    """Registered models, and a real engine."""

    def __init__(self, folder: Path, most: int) -> None:
        self.worker = CountingWorker()
        self.worker.start()
        self.models = NamedModels(self.worker, make_users, device="cpu", dtype="float32", most=most)
        for name in ("a", "b", "c"):
            native.save(build_model(), folder / name)
            self.models.register(name, NamedModel(folder / name, ("retrieval",)))


def make_users(models: Mapping[str, ServedModel], queue: WorkQueue) -> Users:
    preparer: Any = None  # nothing is asked of it
    return Users(models, embedder=Embedder(models["retrieval"], queue, preparer))


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Folders]:
    folders = Folders(tmp_path, most=2)
    yield folders
    folders.worker.stop(WAIT)


async def test_models_are_loaded_when_they_are_asked_for_and_once(two: Folders) -> None:
    assert two.models.in_memory == []
    together = await asyncio.gather(*(two.models.get("a", "model") for _ in range(3)))
    assert together[0] is together[1] is together[2]
    assert two.worker.loads == ["a"]
    assert [model.name for model in two.models.in_memory] == ["a"]
    assert together[0].embedder is not None
    assert together[0].embedder.model.name == "a"


async def test_the_one_longest_not_asked_for_leaves_the_memory(two: Folders) -> None:
    for name in ("a", "b", "a", "c"):
        await two.models.get(name, "model")
    assert {model.name for model in two.models.in_memory} == {"a", "c"}
    await two.models.get("b", "model")
    assert two.worker.loads == ["a", "b", "c", "b"]
    assert {model.name for model in two.models.in_memory} == {"b", "c"}


async def test_what_is_not_known_is_not_found(two: Folders) -> None:
    with pytest.raises(ServiceError, match="there are: a, b, c"):
        await two.models.get("d", "model")
    await two.models.get("a", "model")
    two.models.forget("a")
    assert two.models.in_memory == []
    with pytest.raises(ServiceError):
        await two.models.get("a", "model")


async def test_a_broken_folder_is_tried_again(two: Folders, tmp_path: Path) -> None:
    weights = tmp_path / "a" / native.WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(MplugError):
        await two.models.get("a", "model")
    weights.write_bytes(whole)
    assert (await two.models.get("a", "model")).models["retrieval"].name == "a"


async def test_who_leaves_takes_a_model_from_nobody(two: Folders) -> None:
    first = asyncio.create_task(two.models.get("a", "model"))
    second = asyncio.create_task(two.models.get("a", "model"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).models["retrieval"].name == "a"
    assert two.worker.loads == ["a"]


def test_a_folder_says_what_it_can_do(tmp_path: Path) -> None:
    native.save(build_model(), tmp_path / "a")
    assert loadable_tasks(tmp_path / "a", ("caption", "retrieval", "rerank")) == ("retrieval",)
    with pytest.raises(CheckpointError):
        loadable_tasks(tmp_path, ("caption",))
