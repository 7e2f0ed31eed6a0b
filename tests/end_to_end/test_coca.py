"""A CoCa of open_clip by name: the commands, pipelines and a real server caption with it as the library does."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc import aio

import mplug
from golden.coca_cases import read_golden, write_checkpoint
from mplug.captioning import Caption
from mplug.coca import CocaModel
from mplug.images import decode_image
from mplug.open_clip_model import OpenClipModel
from mplug.preprocess import to_pixels
from mplug_api.v1 import caption_service_pb2 as pb
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1 import model_service_pb2
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.model_service_pb2_grpc import ModelServiceStub
from mplug_services.cli import main
from mplug_services.config import ModelSource
from mplug_services.runners.models import model_loader
from mplug_services.server import running_server
from services.generation_servers import ids_of
from services.pets import fails
from services.serving import fields_of, image_input, picture, serve_config

COUNT = 3


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    # open_clip logs through the root logger, which then gets a handler.
    before = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("coca"), read_golden())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(COUNT):
        (folder / f"{seed}.png").write_bytes(picture(seed))
    return folder


def library_captions(source: str, **settings: Any) -> list[tuple[Caption, ...]]:
    model = mplug.load(source, task="caption")
    pixels = [to_pixels(decode_image(picture(seed)), 32) for seed in range(COUNT)]
    images = torch.stack([torch.from_numpy(each) for each in pixels])
    return model.caption(images, model.generation_config(**settings))


def test_the_command_captions(source: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, settings in (
        ([], {}),
        (["--beam-size", "3", "--num-results", "2"], {"beam_size": 3, "num_results": 2}),
        (["--method", "greedy", "--max-length", "3"], {"method": "greedy", "max_length": 3}),
    ):
        assert main(["caption", str(folder), "--model", source, *arguments]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        expected = library_captions(source, **settings)
        assert [line["token_ids"] for line in lines] == [list(best.hypothesis.ids) for best, *_ in expected]
        assert [line["caption"] for line in lines] == [best.text for best, *_ in expected]
    assert main(["caption", str(folder), "--model", source, "--prompt", "two dog"]) == 0
    captions = [json.loads(line)["caption"] for line in capsys.readouterr().out.splitlines()]
    assert all(caption.startswith("two dog") for caption in captions)
    assert main(["caption", str(folder), "--model", source, "--prompt", "dog " * 60]) == 3
    assert "longer than the 38 tokens that the model reads" in capsys.readouterr().out
    assert main(["caption", str(folder), "--model", source, "--image-size", "64"]) == 1
    assert "at its own image size" in capsys.readouterr().err


def test_the_pipeline_captions(source: str, folder: Path) -> None:
    pipeline = mplug.pipeline("image-captioning", source)
    found = pipeline([folder / f"{seed}.png" for seed in range(COUNT)])
    assert [each["caption"] for each in found] == [best.text for best, *_ in library_captions(source)]


@pytest.fixture
async def channel(source: str, tmp_path: Path) -> AsyncIterator[aio.Channel]:
    config = serve_config(tmp_path, model=source, caption_model=source)
    async with running_server(config) as server, aio.insecure_channel(server.address) as channel:
        yield channel


async def test_the_server_captions(source: str, channel: aio.Channel) -> None:
    stub: Any = CaptionServiceStub(channel)
    images = [image_input(seed) for seed in range(COUNT)]
    for options, settings in (
        (gen.GenerationOptions(), {}),
        (
            gen.GenerationOptions(num_results=4, beam_search=gen.BeamSearch(beam_size=4)),
            {"num_results": 4, "beam_size": 4},
        ),
        (gen.GenerationOptions(max_length=2), {"max_length": 2}),
        (gen.GenerationOptions(greedy=gen.Greedy()), {"method": "greedy"}),
    ):
        response = await stub.Caption(pb.CaptionRequest(images=images, options=options))
        expected = library_captions(source, **settings)
        for result, texts in zip(response.results, expected, strict=True):
            assert ids_of(result.captions) == [list(each.hypothesis.ids) for each in texts]
            assert [text.text for text in result.captions.texts] == [each.text for each in texts]


async def test_streams_and_prompts_of_the_server(channel: aio.Channel) -> None:
    stub: Any = CaptionServiceStub(channel)
    request = pb.StreamCaptionRequest(image=image_input(0), prompt="two dog")
    *partial, last = [each async for each in stub.StreamCaption(request)]
    best = last.progress.finished.texts[0].text
    assert best.startswith("two dog")
    assert partial
    # The random model stops in the middle of a character, now and then.
    assert all(best.startswith(each.progress.partial_text.rstrip("\ufffd")) for each in partial)
    request.prompt = "dog " * 60
    status = await fails(
        stub.StreamCaption(request).__aiter__().__anext__(), grpc.StatusCode.INVALID_ARGUMENT
    )
    assert fields_of(status) == ["prompt"]


async def test_what_the_server_says_of_it(source: str, channel: aio.Channel) -> None:
    stub: Any = ModelServiceStub(channel)
    info = await stub.GetServerInfo(model_service_pb2.GetServerInfoRequest())
    models = {model.task: model for model in info.models}
    assert set(models) == {"retrieval", "caption"}
    loaded = mplug.load(source, task="caption")
    assert isinstance(loaded, CocaModel)
    assert models["caption"].name == source.removeprefix("open_clip:")
    assert models["caption"].embedding_fingerprint == loaded.fingerprint
    assert models["retrieval"].embedding_dimension == 32


def test_both_tasks_share_the_towers(source: str) -> None:
    models = model_loader(
        {task: ModelSource(source) for task in ("retrieval", "caption")}, "cpu", "float32"
    )()
    retrieval, caption = models["retrieval"], models["caption"]
    assert isinstance(retrieval, OpenClipModel)
    assert isinstance(caption, CocaModel)
    assert caption.image_encoder is retrieval.clip.visual
    assert caption.text_decoder.text is retrieval.clip.text
