"""CaptionService of a real server: the reference's token ids, errors by item, options."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from golden.mplug_cases import GoldenCase, read_case, tiny
from mplug.captioning import CaptionModel
from mplug_api.v1 import caption_service_pb2 as pb
from mplug_api.v1 import common_pb2, embedding_service_pb2, model_service_pb2
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from mplug_api.v1.model_service_pb2_grpc import ModelServiceStub
from services.generation_servers import (
    golden_image,
    golden_model,
    golden_options,
    ids_of,
    model_server,
)
from services.pets import fails
from services.serving import build_model, fields_of, image_input, reason_of

Code = grpc.StatusCode
PICTURES = [golden_image(0), golden_image(1)]
SAMPLING = gen.Sampling(temperature=1.5, seed=11)


@pytest.fixture
async def golden(tmp_path: Path) -> AsyncIterator[tuple[GoldenCase, Any]]:
    """The reference's captioner. Any: the stub."""
    case, model = golden_model("caption_large", tmp_path, "caption")
    async with model_server(tmp_path, {"caption": model}, services=("caption",)) as (_, channel):
        yield case, CaptionServiceStub(channel)


@pytest.fixture
async def tiny_stub(tmp_path: Path) -> AsyncIterator[Any]:
    """Of the tiny model. Any: the stub."""
    async with model_server(tmp_path, {"caption": tiny(CaptionModel)}, services=("caption",)) as (_, channel):
        yield CaptionServiceStub(channel)


async def test_captions_are_the_reference_ones_whatever_the_settings(golden: tuple[GoldenCase, Any]) -> None:
    case, stub = golden
    settings = case.described["generation"]
    assert len(settings) >= 6
    for name, stored in settings.items():
        request = pb.CaptionRequest(images=PICTURES, options=golden_options(stored))
        response = await stub.Caption(request)
        assert [result.index for result in response.results] == [0, 1]
        assert [ids_of(result.captions) for result in response.results] == stored["ids"], name
        for result, scores in zip(response.results, stored["scores"], strict=True):
            assert [text.score for text in result.captions.texts] == pytest.approx(scores, abs=1e-4)
            assert not result.captions.HasField("seed")
        assert response.model.name == "caption_large"
        assert response.timings.HasField("forward")


async def test_streams_end_with_the_reference_captions(golden: tuple[GoldenCase, Any]) -> None:
    case, stub = golden
    for stored in case.described["generation"].values():
        for number, expected in enumerate(stored["ids"]):
            request = pb.StreamCaptionRequest(image=PICTURES[number], options=golden_options(stored))
            *partial, last = [each async for each in stub.StreamCaption(request)]
            assert ids_of(last.progress.finished) == expected
            best = last.progress.finished.texts[0].text
            texts = [each.progress.partial_text for each in partial]
            assert texts == sorted(texts, key=len)
            assert all(best.startswith(text) for text in texts)


async def test_what_is_left_out_is_the_checkpoints_own(golden: tuple[GoldenCase, Any]) -> None:
    case, stub = golden
    response = await stub.Caption(pb.CaptionRequest(images=PICTURES))
    assert [ids_of(each.captions) for each in response.results] == case.described["generation"][
        "default_top1"
    ]["ids"]
    assert [each.captions.texts[0].text for each in response.results] == [
        "piece87 piece118",
        "piece87 piece87",
    ]


async def test_a_folder_is_served_by_its_setting(tmp_path: Path) -> None:
    folder = read_case("caption_large").write_modelscope(tmp_path / "folder")
    from grpc import aio

    from mplug_services.server import running_server
    from services.serving import serve_config

    config = serve_config(tmp_path, services=("caption", "model"), caption_model=str(folder))
    async with running_server(config) as server, aio.insecure_channel(server.address) as channel:
        response = await CaptionServiceStub(channel).Caption(pb.CaptionRequest(images=[image_input(1)]))
        assert response.results[0].captions.texts[0].token_ids[0] == 101
        info = await ModelServiceStub(channel).GetServerInfo(model_service_pb2.GetServerInfoRequest())
    assert [(model.task, model.name) for model in info.models] == [("caption", "folder")]
    assert list(info.services) == ["mplug_api.v1.CaptionService", "mplug_api.v1.ModelService"]


async def test_a_bad_picture_harms_no_neighbour(tiny_stub: Any) -> None:
    images = [
        image_input(1),
        common_pb2.ImageInput(data=b"no image"),
        common_pb2.ImageInput(),
        image_input(2),
    ]
    response = await tiny_stub.Caption(pb.CaptionRequest(images=images))
    alone = [await tiny_stub.Caption(pb.CaptionRequest(images=[images[place]])) for place in (0, 3)]
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds == ["captions", "error", "error", "captions"]
    assert [reason_of(response.results[place].error) for place in (1, 2)] == [
        "IMAGE_UNKNOWN_FORMAT",
        "EMPTY_IMAGE",
    ]
    assert fields_of(response.results[1].error) == ["images[1]"]
    for place, one in zip((0, 3), alone, strict=True):
        assert ids_of(response.results[place].captions) == ids_of(one.results[0].captions)


async def test_prompts_begin_every_caption(tiny_stub: Any) -> None:
    request = pb.CaptionRequest(images=[image_input(1), image_input(2)], prompt="piece7 piece9")
    response = await tiny_stub.Caption(request)
    for result in response.results:
        assert list(result.captions.texts[0].token_ids[:3]) == [101, 7, 9]
        assert result.captions.texts[0].text.startswith("piece7 piece9")


@pytest.mark.parametrize("prompt", ["piece7 " * 500, "x" * 300_000])
async def test_prompts_beyond_what_the_model_reads_are_refused(tiny_stub: Any, prompt: str) -> None:
    status = await fails(
        tiny_stub.Caption(pb.CaptionRequest(images=[image_input(1)], prompt=prompt)), Code.INVALID_ARGUMENT
    )
    assert (fields_of(status), reason_of(status)) == (["prompt"], "PROMPT_TOO_LONG")


BAD_OPTIONS = [
    (gen.GenerationOptions(max_length=0), "options.max_length"),
    (gen.GenerationOptions(max_length=-5), "options.max_length"),
    (gen.GenerationOptions(max_length=41), "options.max_length"),  # the decoder has 40 positions
    (gen.GenerationOptions(max_length=5, min_length=6), "options.min_length"),
    (gen.GenerationOptions(min_length=-1), "options.min_length"),
    (gen.GenerationOptions(num_results=0), "options.num_results"),
    (gen.GenerationOptions(num_results=6), "options.num_results"),
    (gen.GenerationOptions(num_results=2, greedy=gen.Greedy()), "options.num_results"),
    (gen.GenerationOptions(num_results=65, sampling=gen.Sampling()), "options.num_results"),
    (gen.GenerationOptions(beam_search=gen.BeamSearch(beam_size=0)), "options.beam_search.beam_size"),
    (gen.GenerationOptions(beam_search=gen.BeamSearch(beam_size=65)), "options.beam_search.beam_size"),
    (
        gen.GenerationOptions(beam_search=gen.BeamSearch(length_penalty=1e9)),
        "options.beam_search.length_penalty",
    ),
    (
        gen.GenerationOptions(beam_search=gen.BeamSearch(length_penalty=float("nan"))),
        "options.beam_search.length_penalty",
    ),
    (gen.GenerationOptions(sampling=gen.Sampling(temperature=0)), "options.sampling.temperature"),
    (gen.GenerationOptions(sampling=gen.Sampling(temperature=float("inf"))), "options.sampling.temperature"),
    (gen.GenerationOptions(sampling=gen.Sampling(top_k=-1)), "options.sampling.top_k"),
    (gen.GenerationOptions(sampling=gen.Sampling(top_p=1.5)), "options.sampling.top_p"),
    (gen.GenerationOptions(sampling=gen.Sampling(top_p=0)), "options.sampling.top_p"),
    (gen.GenerationOptions(repetition_penalty=0), "options.repetition_penalty"),
    (gen.GenerationOptions(no_repeat_ngram_size=-1), "options.no_repeat_ngram_size"),
]


async def test_options_out_of_range_are_named(tiny_stub: Any) -> None:
    for options, field in BAD_OPTIONS:
        request = pb.CaptionRequest(images=[image_input(1)], options=options)
        status = await fails(tiny_stub.Caption(request), Code.INVALID_ARGUMENT)
        assert (fields_of(status), reason_of(status)) == ([field], "OUT_OF_RANGE"), options
        stream = tiny_stub.StreamCaption(pb.StreamCaptionRequest(image=image_input(1), options=options))
        assert fields_of(await fails(stream.read(), Code.INVALID_ARGUMENT)) == [field]


async def test_a_prompt_takes_positions_of_the_text(tiny_stub: Any) -> None:
    options = gen.GenerationOptions(max_length=40)
    fits = pb.CaptionRequest(images=[image_input(1)], options=options)
    assert (await tiny_stub.Caption(fits)).results[0].HasField("captions")
    fits.prompt = "piece7"
    status = await fails(tiny_stub.Caption(fits), Code.INVALID_ARGUMENT)
    assert fields_of(status) == ["options.max_length"]


async def test_a_short_max_length_wins_over_the_checkpoints_min_length(tiny_stub: Any) -> None:
    options = gen.GenerationOptions(max_length=1)
    response = await tiny_stub.Caption(pb.CaptionRequest(images=[image_input(1)], options=options))
    assert len(response.results[0].captions.texts[0].token_ids) == 2


async def test_a_seed_draws_the_same_again_and_is_told(tiny_stub: Any) -> None:
    options = gen.GenerationOptions(sampling=SAMPLING, num_results=3)
    request = pb.CaptionRequest(images=[image_input(1), image_input(2), image_input(1)], options=options)
    first, again = await tiny_stub.Caption(request), await tiny_stub.Caption(request)
    assert first.results == again.results
    # Scores may differ in their last bits with the place in a batch; ids may not.
    assert ids_of(first.results[0].captions) == ids_of(first.results[2].captions)
    assert {result.captions.seed for result in first.results} == {11}
    alone = await tiny_stub.Caption(pb.CaptionRequest(images=[image_input(2)], options=options))
    assert ids_of(alone.results[0].captions) == ids_of(first.results[1].captions)
    options.sampling.ClearField("seed")
    drawn = await tiny_stub.Caption(pb.CaptionRequest(images=[image_input(1)], options=options))
    seed = drawn.results[0].captions.seed
    options.sampling.seed = seed
    told = await tiny_stub.Caption(pb.CaptionRequest(images=[image_input(1)], options=options))
    assert told.results == drawn.results
    options.sampling.seed = seed + 1
    other = await tiny_stub.Caption(pb.CaptionRequest(images=[image_input(1)], options=options))
    assert other.results != drawn.results


async def test_deterministic_captions_are_bit_equal_whatever_is_beside_them(tiny_stub: Any) -> None:
    options = gen.GenerationOptions(deterministic=True, num_results=5)
    images = [image_input(seed) for seed in range(4)]
    together = await tiny_stub.Caption(pb.CaptionRequest(images=images, options=options))
    for place, image in enumerate(images):
        alone = await tiny_stub.Caption(pb.CaptionRequest(images=[image], options=options))
        assert together.results[place].captions == alone.results[0].captions


@pytest.mark.parametrize("count", [0, 257])
async def test_batches_have_limits(tiny_stub: Any, count: int) -> None:
    request = pb.CaptionRequest(images=[common_pb2.ImageInput()] * count)
    assert fields_of(await fails(tiny_stub.Caption(request), Code.INVALID_ARGUMENT)) == ["images"]


async def test_without_a_model_it_says_which_setting_is_missing(tmp_path: Path) -> None:
    async with model_server(tmp_path, {"retrieval": build_model()}) as (server, channel):
        assert "caption" not in server.names
        stub: Any = CaptionServiceStub(channel)
        status = await fails(
            stub.Caption(pb.CaptionRequest(images=[image_input(1)])), Code.FAILED_PRECONDITION
        )
        assert reason_of(status) == "MODEL_NOT_CONFIGURED"
        assert "caption_model" in status.message
        embedding: Any = EmbeddingServiceStub(channel)
        response = await embedding.EmbedTexts(embedding_service_pb2.EmbedTextsRequest(texts=["piece1"]))
        assert response.results[0].HasField("embedding")
