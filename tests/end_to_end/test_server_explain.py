"""Heat maps of a real server: those of `mplug.explain` for the same model and picture."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from golden.mplug_cases import tiny
from mplug.captioning import CaptionModel
from mplug.explain import explain_match, explain_words
from mplug.images import decode_image
from mplug.overlay import OVERLAY_SIDE
from mplug.preprocess import to_pixels
from mplug.reranking import RerankModel
from mplug.vqa import VqaModel
from mplug_api.v1 import caption_service_pb2, common_pb2, vqa_service_pb2
from mplug_api.v1 import explanation_pb2 as pb
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1 import rerank_service_pb2 as rerank_pb
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.rerank_service_pb2_grpc import RerankServiceStub
from mplug_api.v1.vqa_service_pb2_grpc import VqaServiceStub
from services.generation_servers import model_server
from services.pets import fails
from services.rerank_servers import TEXT, Stubs, images, ingest, make_rerank_model, rerank_server, stored
from services.serving import fields_of, image_input, picture, reason_of

Code = grpc.StatusCode
LARGE = picture(4, size=(1200, 300))
OPTIONS = gen.GenerationOptions(min_length=5, max_length=5, beam_search=gen.BeamSearch(beam_size=2))
QUESTION = "piece3 piece8"


@pytest.fixture
def models() -> dict[str, Any]:
    """By task. Any: of each its own class."""
    return {"caption": tiny(CaptionModel), "vqa": tiny(VqaModel), "rerank": make_rerank_model()}


@pytest.fixture
async def channel(tmp_path: Path, models: dict[str, Any]) -> AsyncIterator[Any]:
    services = ("caption", "vqa", "rerank")
    async with model_server(tmp_path, models, services=services, token_cache="none") as (_, channel):
        yield channel


def stub(kind: Any, channel: Any) -> Any:
    """Any: stubs of aio channels are typed as those of sync ones."""
    return kind(channel)


def tokens_of(model: Any, data: bytes) -> Tensor:
    pixels = torch.from_numpy(to_pixels(decode_image(data), model.preprocess.image_size))
    image_1ND: Tensor = model.encode_image(pixels[None])
    return image_1ND


def cells(heat_map: pb.HeatMap) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(heat_map.values, dtype=np.float32).reshape(heat_map.height, heat_map.width)


def check_overlay(heat_map: pb.HeatMap, size: tuple[int, int]) -> None:
    drawn = Image.open(io.BytesIO(heat_map.overlay))
    assert (drawn.format, drawn.size) == ("JPEG", size)


def check_words(
    heat_maps: Sequence[pb.HeatMap], model: Any, memory: Tensor, ids: list[int], tokens: int, **options: Any
) -> None:
    """Any: the model, and options of `explain_words`."""
    expected = explain_words(model.text_decoder, memory, torch.tensor([ids]), image_tokens=tokens, **options)
    assert max(cells(heat_map).max() for heat_map in heat_maps) == 1, "a text has words, and they have looked"
    for heat_map in heat_maps:
        (place,) = heat_map.tokens
        assert heat_map.word == model.tokenizer.vocab[ids[place]]
        np.testing.assert_allclose(cells(heat_map), expected[place - 1].numpy(), atol=1e-4)


@pytest.mark.parametrize("layer", [None, 1])
async def test_each_word_of_a_caption_has_the_librarys_map(
    channel: Any, models: dict[str, Any], layer: int | None
) -> None:
    request = caption_service_pb2.CaptionRequest(
        images=[image_input(1), common_pb2.ImageInput(data=b"bad"), common_pb2.ImageInput(data=LARGE)],
        prompt="piece9",
        options=OPTIONS,
        explain=pb.ExplainOptions(layer=layer),
    )
    response = await stub(CaptionServiceStub, channel).Caption(request)
    first, bad, last = response.results
    assert reason_of(bad.error) == "IMAGE_UNKNOWN_FORMAT"
    for result, data, size in (
        (first, picture(1), (48, 40)),
        (last, LARGE, (OVERLAY_SIDE, OVERLAY_SIDE // 4)),
    ):
        model, ids = models["caption"], list(result.captions.texts[0].token_ids)
        memory = tokens_of(model, data)
        assert result.heat_maps[0].word == "piece9", "the prompt's words have theirs, too"
        check_words(result.heat_maps, model, memory, ids, memory.shape[1], layer=layer)
        for heat_map in result.heat_maps:
            check_overlay(heat_map, size)
    plain = caption_service_pb2.CaptionRequest(images=[image_input(1)], prompt="piece9", options=OPTIONS)
    (unasked,) = (await stub(CaptionServiceStub, channel).Caption(plain)).results
    assert unasked.captions.texts[0].token_ids == first.captions.texts[0].token_ids
    assert not unasked.heat_maps


@pytest.mark.parametrize("ranks", [False, True])
async def test_each_word_of_an_answer_has_the_librarys_map(
    channel: Any, models: dict[str, Any], ranks: bool
) -> None:
    question = vqa_service_pb2.Question(image=image_input(1), question=QUESTION)
    request = vqa_service_pb2.AnswerRequest(questions=[question] * 2, explain=pb.ExplainOptions())
    if ranks:
        answers = ["piece7 piece9 piece11", "piece12 piece13"]
        request.rank.CopyFrom(vqa_service_pb2.RankOptions(answers=answers))
    else:
        request.generate.CopyFrom(OPTIONS)
    response = await stub(VqaServiceStub, channel).Answer(request)
    model = models["vqa"]
    question_ids = torch.from_numpy(model.tokenizer.encode(QUESTION).ids)[None]
    image = tokens_of(model, picture(1))
    memory, _ = model.decoder_memory(image, question_ids, question_ids > 0)
    for result in response.results:
        if ranks:
            ids = [101, *model.tokenizer.encode(result.ranked.answers[0].text).ids[1:].tolist()]
        else:
            ids = list(result.answers.texts[0].token_ids)
        check_words(result.heat_maps, model, memory, ids, image.shape[1])
        check_overlay(result.heat_maps[0], (48, 40))


def match_of(model: RerankModel, data: bytes, layer: int | None = None) -> np.ndarray[Any, Any]:
    ids = torch.from_numpy(model.tokenizer.encode(TEXT).ids)[None]
    expected: np.ndarray[Any, Any] = explain_match(model, tokens_of(model, data), ids, layer=layer).numpy()
    return expected


async def test_a_match_has_the_librarys_map(channel: Any, models: dict[str, Any]) -> None:
    explain = pb.ExplainOptions(layer=2)
    request = rerank_pb.RerankRequest(text=TEXT, candidates=images(1, 2), explain=explain)
    response = await stub(RerankServiceStub, channel).Rerank(request)
    for result, seed in zip(response.results, (1, 2), strict=True):
        (heat_map,) = result.heat_maps
        assert (heat_map.word, list(heat_map.tokens)) == ("", [])
        np.testing.assert_allclose(cells(heat_map), match_of(models["rerank"], picture(seed), 2), atol=1e-4)
        check_overlay(heat_map, (48, 40))
        assert result.HasField("match_probability")


async def test_kept_pictures_are_drawn_on_and_others_say_that_they_are_not_kept(
    tmp_path: Path, rerank_models: Path
) -> None:
    request = rerank_pb.RerankRequest(
        text=TEXT, collection="pets", candidates=stored("p2", "p3"), explain=pb.ExplainOptions()
    )
    async with rerank_server(tmp_path, rerank_models) as stubs:
        await ingest(stubs, 3)
        await _forget(stubs)
        for _ in range(2):  # the second time, the tokens are cached
            response = await stubs.rerank.Rerank(request)
            kept, lost = response.results
            check_overlay(kept.heat_maps[0], (48, 40))
            expected = match_of(make_rerank_model(), picture(2))
            np.testing.assert_allclose(cells(kept.heat_maps[0]), expected, atol=0.02)
            assert reason_of(lost.error) == "NO_PICTURE_KEPT"
            assert not lost.heat_maps


async def _forget(stubs: Stubs) -> None:
    """Add p3, whose picture is not kept."""
    from mplug_api.v1 import search_service_pb2 as search_pb
    from services.serving import ingest_requests

    requests = ingest_requests("pets", [3], keep_images=search_pb.KEEP_IMAGES_NONE)
    assert sum([each.HasField("ack") async for each in stubs.search.Ingest(iter(requests))]) == 1


@pytest.mark.parametrize("layer", [-1, 9])
async def test_layers_that_are_not_there_are_named(channel: Any, layer: int) -> None:
    explain = pb.ExplainOptions(layer=layer)
    question = vqa_service_pb2.Question(image=image_input(1), question=QUESTION)
    for call in (
        stub(CaptionServiceStub, channel).Caption(
            caption_service_pb2.CaptionRequest(images=[image_input(1)], explain=explain)
        ),
        stub(VqaServiceStub, channel).Answer(
            vqa_service_pb2.AnswerRequest(questions=[question], explain=explain)
        ),
        stub(RerankServiceStub, channel).Rerank(
            rerank_pb.RerankRequest(text=TEXT, candidates=images(1), explain=explain)
        ),
    ):
        status = await fails(call, Code.INVALID_ARGUMENT)
        assert (fields_of(status), reason_of(status)) == (["explain.layer"], "OUT_OF_RANGE")
        assert f"{layer} is no layer of" in status.message


async def test_more_items_than_a_request_may_explain_are_refused(channel: Any) -> None:
    explain, count = pb.ExplainOptions(), 17
    question = vqa_service_pb2.Question(image=image_input(1), question=QUESTION)
    calls = {
        "images": stub(CaptionServiceStub, channel).Caption(
            caption_service_pb2.CaptionRequest(images=[image_input(1)] * count, explain=explain)
        ),
        "questions": stub(VqaServiceStub, channel).Answer(
            vqa_service_pb2.AnswerRequest(questions=[question] * count, explain=explain)
        ),
        "candidates": stub(RerankServiceStub, channel).Rerank(
            rerank_pb.RerankRequest(text=TEXT, candidates=images(*range(count)), explain=explain)
        ),
    }
    for field, call in calls.items():
        status = await fails(call, Code.INVALID_ARGUMENT)
        assert (fields_of(status), reason_of(status)) == ([field], "BATCH_TOO_LARGE")
        assert "17 items to explain; the limit is 16" in status.message


async def test_what_was_scored_in_time_counts_without_its_map(channel: Any, models: dict[str, Any]) -> None:
    model, gate = models["rerank"], threading.Event()
    encode_text = model.encode_text

    def gated(*arguments: Tensor) -> Any:
        assert gate.wait(30)
        return encode_text(*arguments)

    service = stub(RerankServiceStub, channel)
    request = rerank_pb.RerankRequest(text=TEXT, candidates=images(1))
    plain = await service.Rerank(request)  # from now on, only explanations encode the text
    model.encode_text = gated
    request.explain.SetInParent()
    try:
        response = await service.Rerank(request, timeout=1.5)
    finally:
        gate.set()
    (result,) = response.results
    assert result.match_probability == pytest.approx(plain.results[0].match_probability, abs=1e-6)
    assert not result.heat_maps
    assert response.reranked_count == 1


async def test_a_deadline_during_the_explanation_ends_the_call_and_its_work(
    channel: Any, models: dict[str, Any]
) -> None:
    decoder, gate, arrived = models["caption"].text_decoder, threading.Event(), threading.Semaphore(0)
    forward, passes = decoder.head.forward, 0

    def gated(*arguments: Tensor) -> Any:
        nonlocal passes
        passes += 1
        arrived.release()
        assert gate.wait(30)
        return forward(*arguments)

    decoder.head.forward = gated  # decoding does without it, an explanation does not
    service = stub(CaptionServiceStub, channel)
    request = caption_service_pb2.CaptionRequest(
        images=[image_input(1)], options=OPTIONS, explain=pb.ExplainOptions()
    )
    call = service.Caption(request, timeout=1.5)
    assert await asyncio.to_thread(arrived.acquire, True, 30)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    assert failed.value.code() is Code.DEADLINE_EXCEEDED
    gate.set()
    request.ClearField("explain")
    await service.Caption(request)
    assert passes == 1, "the words that were left were not explained any more"
