"""Image sizes of a server's models: what is served at them, which collections fit, and which modules are shared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc import aio

import mplug
from golden.mplug_cases import read_case, tiny
from mplug.checkpoints import native
from mplug.errors import MplugError
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug.vqa import VqaModel
from mplug_api.v1 import caption_service_pb2, model_service_pb2
from mplug_api.v1 import search_service_pb2 as search_pb
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.model_service_pb2_grpc import ModelServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from mplug_services.config import ModelSource
from mplug_services.runners.models import describe, model_loader
from mplug_services.server import running_server
from services.generation_servers import ids_of
from services.pets import fails
from services.serving import image_input, ingest_requests, picture, reason_of, serve_config

SIZE = 64
"""The models were made for 32."""


@asynccontextmanager
async def sized_server(folder: Path, **settings: Any) -> AsyncIterator[aio.Channel]:
    config = serve_config(folder, token_cache="none", **settings)
    async with running_server(config) as server, aio.insecure_channel(server.address) as channel:
        yield channel


async def fingerprints(channel: aio.Channel) -> dict[str, str]:
    stub: Any = ModelServiceStub(channel)
    info = await stub.GetServerInfo(model_service_pb2.GetServerInfoRequest())
    return {model.task: model.embedding_fingerprint for model in info.models}


def library_ids(folder: Path, seed: int, size: int | None) -> list[int]:
    model = mplug.load(folder, task="caption", image_size=size)
    pixels = to_pixels(decode_image(picture(seed)), model.preprocess.image_size)
    ((best, *_),) = model.caption(torch.from_numpy(pixels)[None])
    return list(best.hypothesis.ids)


async def test_captions_are_the_library_s_at_the_server_s_size(tmp_path: Path) -> None:
    folder = read_case("caption_large").write_modelscope(tmp_path / "folder")
    expected = [library_ids(folder, seed, SIZE) for seed in range(4)]
    assert expected != [library_ids(folder, seed, None) for seed in range(4)]
    settings = {"caption_model": str(folder), "caption_image_size": SIZE, "services": ("caption",)}
    async with sized_server(tmp_path, **settings) as channel:
        stub: Any = CaptionServiceStub(channel)
        request = caption_service_pb2.CaptionRequest(images=[image_input(seed) for seed in range(4)])
        response = await stub.Caption(request)
        assert [ids_of(each.captions)[0] for each in response.results] == expected


async def test_a_collection_of_another_size_is_refused(tmp_path: Path, rerank_models: Path) -> None:
    search = search_pb.SearchRequest(collection="pets", parts=[search_pb.QueryPart(text="piece1")])

    async def found(channel: aio.Channel) -> int:
        stub: Any = SearchServiceStub(channel)
        return len((await stub.Search(search)).hits)

    model = {"model": str(rerank_models / "retrieval")}
    async with sized_server(tmp_path, **model) as channel:
        stub: Any = SearchServiceStub(channel)
        assert [each async for each in stub.Ingest(iter(ingest_requests("pets", range(3))))]
        assert await found(channel) == 3
    async with sized_server(tmp_path, **model, image_size=SIZE) as channel:
        stub = SearchServiceStub(channel)
        status = await fails(stub.Search(search), grpc.StatusCode.FAILED_PRECONDITION)
        assert reason_of(status) == "FINGERPRINT_MISMATCH"
    async with sized_server(tmp_path, **model, image_size=32) as channel:
        assert await found(channel) == 3


async def test_each_task_has_a_size_of_its_own(tmp_path: Path, rerank_models: Path) -> None:
    settings = {
        "model": str(rerank_models / "retrieval"),
        "rerank_model": str(rerank_models / "rerank"),
        "rerank_image_size": 48,
    }
    async with sized_server(tmp_path, **settings) as channel:
        found = await fingerprints(channel)
    for task, size in (("retrieval", 32), ("rerank", 48)):
        load: Any = mplug.load  # Any: the task is a variable
        models = {side: load(rerank_models / task, task=task, image_size=side) for side in (32, 48)}
        expected = {side: describe(task, model).fingerprint for side, model in models.items()}
        assert expected[32] != expected[48]
        assert found[task] == expected[size]


@pytest.mark.parametrize(
    ("size", "own"), [(None, False), (32, False), (SIZE, True)], ids=["own", "the same", "another"]
)
def test_tasks_of_one_folder_share_the_tower_only_at_one_size(
    size: int | None, own: bool, tmp_path: Path
) -> None:
    native.save(tiny(VqaModel), tmp_path)
    sources = {"caption": ModelSource(str(tmp_path), size), "vqa": ModelSource(str(tmp_path))}
    models: Any = model_loader(sources, "cpu", "float32")()
    caption, vqa = models["caption"], models["vqa"]
    assert (caption.image_encoder is not vqa.image_encoder) is own
    assert caption.text_decoder is vqa.text_decoder
    assert [
        len(each.encode_image(torch.zeros(1, 3, side, side, dtype=torch.uint8))[0])
        for each, side in ((caption, size or 32), (vqa, 32))
    ] == [1 + ((size or 32) // 16) ** 2, 5]


@pytest.mark.parametrize(
    ("task", "place", "size", "message"),
    [
        (
            "caption",
            "{folder}",
            60,
            "caption_model {folder} at caption_image_size 60: image_size is 60; .*take 48 or 64",
        ),
        ("retrieval", "{folder}", 60, "model {folder} at image_size 60: image_size is 60"),
        ("retrieval", "open_clip:RN50", 64, "model open_clip:RN50 at image_size 64: .*own image size"),
        ("vqa", "gone", 64, "vqa_model gone at vqa_image_size 64: gone is neither a folder nor"),
    ],
)
def test_a_size_that_a_model_cannot_take_is_named_with_its_setting(
    task: str, place: str, size: int, message: str, tmp_path: Path, rerank_models: Path
) -> None:
    if task == "caption":
        native.save(tiny(VqaModel), tmp_path)
    folder = rerank_models / "retrieval" if task == "retrieval" else tmp_path
    source = ModelSource(place.format(folder=folder), size)
    with pytest.raises(MplugError, match=message.format(folder=folder)):
        model_loader({task: source}, "cpu", "float32")()
