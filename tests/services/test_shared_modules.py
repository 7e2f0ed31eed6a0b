"""Models of one folder: their modules are in memory once, and each gives what it gives alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mplug
from golden.mplug_cases import some_pixels, some_text
from mplug.checkpoints import native
from mplug_services.config import ModelSource
from mplug_services.engine import ModelWorker
from mplug_services.runners.models import Models, describe, model_loader
from services.serving import make_scheduler
from services.whole_folder import TASKS, save_whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return loaded(folder)


def loaded(folder: Path) -> Models:
    return model_loader({task: ModelSource(str(folder)) for task in TASKS}, "cpu", "float32")()


def alone(folder: Path, task: str) -> Any:
    load: Any = mplug.load  # Any: the task is a variable
    return load(folder, task=task)


def tensors(models: Models) -> Iterator[tuple[str, Tensor]]:
    for model in models.values():
        assert isinstance(model, torch.nn.Module)
        yield from model.state_dict(keep_vars=True).items()


def test_every_tensor_of_the_folder_is_in_memory_once(folder: Path, models: Models) -> None:
    stored = load_file(folder / native.WEIGHTS_FILE)
    places: dict[str, set[int]] = {}
    for name, tensor in tensors(models):
        places.setdefault(name, set()).add(tensor.data_ptr())
    assert places.keys() == stored.keys(), "all of it is used by one task or another"
    assert all(len(each) == 1 for each in places.values())
    unique = {tensor.data_ptr(): tensor.numel() for _, tensor in tensors(models)}
    assert sum(unique.values()) == sum(tensor.numel() for tensor in stored.values())


def test_serving_keeps_them_once(folder: Path) -> None:
    models = loaded(folder)
    worker = ModelWorker(lambda: models, make_scheduler())
    worker.start()
    worker.ready.result(60)
    assert worker.stop(60)
    for first, second in itertools.combinations(models.values(), 2):
        one, other = dict(children(first)), dict(children(second))
        assert one.keys() & other.keys()
        assert all(one[name] is other[name] for name in one.keys() & other.keys())


def children(model: object) -> Iterator[tuple[str, torch.nn.Module]]:
    assert isinstance(model, torch.nn.Module)
    return model.named_children()


@pytest.mark.parametrize("task", TASKS)
def test_what_is_said_of_each_is_as_alone(folder: Path, models: Models, task: str) -> None:
    assert describe(task, models[task]).fingerprint == describe(task, alone(folder, task)).fingerprint
    shown = [
        (each.name, each.num_parameters, each.image_size, each.decoder is None)
        for each in (describe(task, models[task]), describe(task, alone(folder, task)))
    ]
    assert shown[0] == shown[1]


def results(models: Mapping[str, Any]) -> dict[str, Any]:
    pixels, (ids, mask) = some_pixels(), some_text()
    with torch.inference_mode():
        image = models["rerank"].encode_image(pixels)
        return {
            "images": models["retrieval"].embed_images(pixels),
            "texts": models["retrieval"].embed_texts(ids, mask),
            "matches": models["rerank"].itm_scores(image, ids, mask),
            "captions": models["caption"].caption(pixels),
            "answers": models["vqa"].answer(pixels, ["piece9", "piece10 piece11"]),
            "ranked": models["vqa"].rank(pixels, ["piece9", "piece10"], ["piece3", "piece4 piece5"]),
        }


def test_each_gives_what_it_gives_alone(folder: Path, models: Models) -> None:
    expected = results({task: alone(folder, task) for task in TASKS})
    for name, found in results(models).items():
        if isinstance(found, Tensor):
            assert torch.equal(found, expected[name]), name
        else:
            assert found == expected[name], name


def test_other_folders_share_nothing(folder: Path, tmp_path: Path) -> None:
    again = save_whole(tmp_path / "again")
    sources = {"caption": ModelSource(str(folder)), "vqa": ModelSource(str(again))}
    models = model_loader(sources, "cpu", "float32")()
    one, other = (dict(children(model)) for model in models.values())
    assert not set(one.values()) & set(other.values())
