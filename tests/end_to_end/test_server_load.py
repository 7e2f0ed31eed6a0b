"""A real server with too much to do: deadlines, cancellation, overload."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from mplug_api.v1 import embedding_service_pb2, search_service_pb2
from mplug_api.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from mplug_services.server import Server
from services.serving import (
    GatedModel,
    build_model,
    image_input,
    ingest_requests,
    poll,
    reason_of,
    retry_seconds_of,
    status_of,
    tiny_server,
)

Code = grpc.StatusCode
PIXELS = 32 * 32


class SlowModel(GatedModel):
    """Its forward passes take a known time per item, as those of a large model do."""

    seconds_per_item = 0.01

    def _pass(self, kind: str, count: int) -> None:
        super()._pass(kind, count)
        time.sleep(self.seconds_per_item * count)


def images(count: int) -> embedding_service_pb2.EmbedImagesRequest:
    return embedding_service_pb2.EmbedImagesRequest(images=[image_input(seed) for seed in range(count)])


def by_text(text: str = "piece3") -> search_service_pb2.SearchRequest:
    part = search_service_pb2.QueryPart(text=text)
    return search_service_pb2.SearchRequest(collection="pets", parts=[part])


def by_picture() -> search_service_pb2.SearchRequest:
    part = search_service_pb2.QueryPart(image=image_input(3))
    return search_service_pb2.SearchRequest(collection="pets", parts=[part])


async def fill(channel: aio.Channel) -> None:
    stub: Any = SearchServiceStub(channel)
    async for _ in stub.Ingest(iter(ingest_requests("pets", range(5)))):
        pass


@pytest.mark.parametrize("query", [by_text(), by_picture()], ids=["text", "picture"])
async def test_a_search_behind_16_long_batches_is_answered_in_time(
    query: search_service_pb2.SearchRequest, tmp_path: Path
) -> None:
    model = SlowModel()
    async with tiny_server(tmp_path, model, max_batch_pixels=8 * PIXELS) as (server, channel):
        await fill(channel)
        embedding: Any = EmbeddingServiceStub(channel)
        search: Any = SearchServiceStub(channel)
        started = time.monotonic()
        await embedding.EmbedImages(images(8))
        quantum_seconds = time.monotonic() - started
        batches = [asyncio.ensure_future(embedding.EmbedImages(images(32))) for _ in range(16)]
        await poll(lambda: server.queue_length > 400, "the batches to be queued")
        waiting_quanta = server.queue_length / 8
        # In the order of arrival the search would wait for about 60 quanta; it has time for 15.
        deadline = 15 * quantum_seconds
        assert waiting_quanta > 3 * 15
        response = await search.Search(query, timeout=deadline)
        assert len(response.hits) == 5
        assert server.queue_length / 8 > waiting_quanta - 15, "the batches still wait: nothing was dropped"
        for response in await asyncio.gather(*batches):
            assert all(result.HasField("embedding") for result in response.results)


async def test_a_deadline_ends_the_wait_and_the_work(tmp_path: Path) -> None:
    model = GatedModel()
    async with tiny_server(tmp_path, model, max_batch_pixels=PIXELS) as (server, channel):
        model.shut()
        stub: Any = EmbeddingServiceStub(channel)
        patient = asyncio.ensure_future(stub.EmbedImages(images(1)))
        await model.wait_for_pass()
        with pytest.raises(aio.AioRpcError) as failed:
            await stub.EmbedImages(images(8), timeout=0.3)
        assert failed.value.code() is Code.DEADLINE_EXCEEDED
        await poll(lambda: server.queue_length == 0, "the queue to be empty")
        passes = len(model.passes)
        model.gate.set()
        await patient
        assert len(model.passes) == passes, "nothing of the expired request ran"


async def test_a_cancelled_request_frees_the_queue(tmp_path: Path) -> None:
    model = GatedModel()
    sizes = {"queue_size": 16, "max_batch_size": 16, "ingest_batch_size": 8}
    async with tiny_server(tmp_path, model, max_batch_pixels=PIXELS, **sizes) as (server, channel):
        model.shut()
        stub: Any = EmbeddingServiceStub(channel)
        first = asyncio.ensure_future(stub.EmbedImages(images(1)))
        await model.wait_for_pass()
        unwanted = stub.EmbedImages(images(16))
        sending = asyncio.ensure_future(_outcome(unwanted))
        await poll(lambda: server.queue_length == 16, "the queue to be full")
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.EmbedImages(images(1))
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        unwanted.cancel()
        assert await sending is Code.CANCELLED
        await poll(lambda: server.queue_length == 0, "the queue to be empty")
        wanted = asyncio.ensure_future(stub.EmbedImages(images(16)))
        await poll(lambda: server.queue_length == 16, "the wanted ones to be queued")
        passes = len(model.passes)
        model.gate.set()
        assert len((await wanted).results) == 16
        await first
        assert len(model.passes) == passes + 16


def check_refusal(error: aio.AioRpcError) -> None:
    if error.code() is Code.RESOURCE_EXHAUSTED:
        assert reason_of(status_of(error)) == "QUEUE_FULL"
        assert retry_seconds_of(status_of(error)) > 0


async def _outcome(call: Awaitable[Any]) -> Code:
    try:
        await call
    except aio.AioRpcError as error:
        check_refusal(error)
        return error.code()
    except asyncio.CancelledError:
        return Code.CANCELLED
    return Code.OK


async def measure_rate(server: Server, stub: Any) -> float:
    """Pictures a second that the server can embed. Any: the stub of an aio channel."""
    started = time.monotonic()
    await asyncio.gather(*(stub.EmbedImages(images(8)) for _ in range(4)))
    return 32 / (time.monotonic() - started)


async def test_ten_times_too_much_gives_no_other_outcomes(tmp_path: Path) -> None:
    sizes = {"queue_size": 64, "max_batch_size": 64, "ingest_batch_size": 8}
    async with tiny_server(tmp_path, SlowModel(), max_batch_pixels=8 * PIXELS, **sizes) as (server, channel):
        await fill(channel)
        embedding: Any = EmbeddingServiceStub(channel)
        search: Any = SearchServiceStub(channel)
        rate = await measure_rate(server, embedding)
        seconds, size = 2.0, 8
        calls: list[asyncio.Task[Code]] = []
        # Open loop: requests come at their own pace, not when an answer has come.
        total = int(10 * rate * seconds / size)
        started = time.monotonic()
        for number in range(total):
            call = (
                search.Search(by_text(), timeout=5.0)
                if number % 10 == 0
                else embedding.EmbedImages(images(size if number % 2 else 1), timeout=2.0)
            )
            calls.append(asyncio.create_task(_outcome(call)))
            await asyncio.sleep(max(0.0, started + number * seconds / total - time.monotonic()))
        outcomes = Counter(await asyncio.gather(*calls))
        assert set(outcomes) <= {Code.OK, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED}, outcomes
        assert outcomes[Code.OK] > 0
        assert outcomes[Code.RESOURCE_EXHAUSTED] > 0
        # And afterwards all is as before.
        await poll(lambda: server.queue_length == 0, "the queue to be empty")
        assert len((await search.Search(by_text())).hits) == 5


async def test_a_batch_and_single_items_are_refused_alike(tmp_path: Path) -> None:
    model = GatedModel()
    sizes = {"queue_size": 4, "max_batch_size": 4, "ingest_batch_size": 4}
    async with tiny_server(tmp_path, model, max_batch_pixels=PIXELS, **sizes) as (server, channel):
        model.shut()
        stub: Any = EmbeddingServiceStub(channel)
        running = [asyncio.ensure_future(stub.EmbedImages(images(1)))]
        await model.wait_for_pass()
        running.append(asyncio.ensure_future(stub.EmbedImages(images(4))))
        await poll(lambda: server.queue_length == 4, "the queue to be full")
        for count in (1, 4):
            assert await _outcome(stub.EmbedImages(images(count))) is Code.RESOURCE_EXHAUSTED
        texts = embedding_service_pb2.EmbedTextsRequest(texts=["piece1"])
        assert await _outcome(stub.EmbedTexts(texts)) is Code.RESOURCE_EXHAUSTED
        model.gate.set()
        await asyncio.gather(*running)


async def test_many_cancellations_leave_the_answers_right(tmp_path: Path) -> None:
    async with tiny_server(tmp_path, build_model()) as (server, channel):
        stub: Any = EmbeddingServiceStub(channel)
        expected = await stub.EmbedImages(images(3))
        calls = [stub.EmbedImages(images(3)) for _ in range(200)]
        tasks = [asyncio.ensure_future(_outcome(call)) for call in calls]
        for call in calls[::2]:
            call.cancel()
        outcomes = Counter(await asyncio.gather(*tasks))
        assert set(outcomes) <= {Code.OK, Code.CANCELLED}
        await poll(lambda: server.queue_length == 0, "the queue to be empty")
        again = await stub.EmbedImages(images(3))
        assert [each.embedding.vector for each in again.results] == [
            each.embedding.vector for each in expected.results
        ]
