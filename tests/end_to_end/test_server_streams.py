"""Decoding between other work: searches overtake captions, and what nobody waits for stops."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc

from golden.mplug_cases import tiny
from mplug.captioning import CaptionModel
from mplug_api.v1 import caption_service_pb2 as pb
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1 import search_service_pb2 as search_pb
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from services.generation_servers import Gate, ids_of, model_server
from services.pets import fails
from services.serving import build_model, image_input, ingest_requests, poll

LONG = gen.GenerationOptions(min_length=30, max_length=30, greedy=gen.Greedy())
STEPS = 30


def model_with_gate() -> tuple[CaptionModel, Gate]:
    model = tiny(CaptionModel)
    return model, Gate(model)


async def pass_one(gate: Gate) -> None:
    """Until a step stands at the gate."""
    assert await asyncio.to_thread(gate.arrived.acquire, True, 30)


def reset(gate: Gate) -> None:
    while gate.arrived.acquire(blocking=False):
        pass
    gate.steps = 0
    gate.rows.clear()


async def test_a_search_overtakes_a_caption_between_two_tokens(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    models = {"retrieval": build_model(), "caption": model}
    async with model_server(tmp_path, models) as (server, channel):
        captions: Any = CaptionServiceStub(channel)
        searches: Any = SearchServiceStub(channel)
        assert [each async for each in searches.Ingest(iter(ingest_requests("pets", range(3))))]
        reset(gate)
        gate.open.clear()
        caption = asyncio.ensure_future(
            captions.Caption(pb.CaptionRequest(images=[image_input(1)], options=LONG))
        )
        await pass_one(gate)
        request = search_pb.SearchRequest(collection="pets", parts=[search_pb.QueryPart(text="piece7")])
        search = searches.Search(request, timeout=20.0)
        await poll(lambda: server.queue_length == 1, "the search to wait for the model")
        # The step at the gate goes through, and the next one of the caption stands there again.
        gate.shut_at = 1
        gate.open.set()
        assert len((await search).hits) == 3
        await pass_one(gate)  # opened before it came there, it would shut itself in
        assert gate.steps == 2
        assert not caption.done()
        gate.open.set()
        await caption
        assert gate.steps == STEPS


async def test_a_client_that_leaves_stops_its_decoding(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    async with model_server(tmp_path, {"caption": model}, services=("caption",)) as (server, channel):
        stub: Any = CaptionServiceStub(channel)
        reset(gate)
        gate.open.clear()
        stream = stub.StreamCaption(pb.StreamCaptionRequest(image=image_input(1), options=LONG))
        reading = asyncio.ensure_future(stream.read())
        await pass_one(gate)
        stream.cancel()
        await asyncio.wait([reading])
        await poll(lambda: server.calls_under_way == 0, "the server to see that the client has left")
        gate.open.set()
        # The worker answers the next caption only after it has dropped the first.
        short = gen.GenerationOptions(max_length=1)
        response = await stub.Caption(pb.CaptionRequest(images=[image_input(2)], options=short))
        assert response.results[0].HasField("captions")
        assert gate.steps == 2  # the one that stood at the gate, and the second caption's


async def test_a_caption_past_its_deadline_stops(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    async with model_server(tmp_path, {"caption": model}, services=("caption",)) as (server, channel):
        stub: Any = CaptionServiceStub(channel)
        reset(gate)
        gate.open.clear()
        request = pb.CaptionRequest(images=[image_input(1), image_input(2)], options=LONG)
        call = asyncio.ensure_future(
            fails(stub.Caption(request, timeout=1.0), grpc.StatusCode.DEADLINE_EXCEEDED)
        )
        await pass_one(gate)
        await asyncio.wait([call])
        await poll(lambda: server.calls_under_way == 0, "the server to end the call")
        gate.open.set()
        short = gen.GenerationOptions(max_length=1)
        await stub.Caption(pb.CaptionRequest(images=[image_input(2)], options=short))
        assert gate.steps == 2


async def test_one_that_leaves_a_batch_is_decoded_no_further(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    async with model_server(tmp_path, {"caption": model}, services=("caption",)) as (server, channel):
        stub: Any = CaptionServiceStub(channel)
        reset(gate)
        gate.open.clear()
        first = asyncio.ensure_future(stub.Caption(pb.CaptionRequest(images=[image_input(0)])))
        await pass_one(gate)
        requests = [pb.CaptionRequest(images=[image_input(seed)], options=LONG) for seed in (1, 2)]
        leaves, stays = (stub.Caption(request) for request in requests)
        await poll(lambda: server.queue_length == 2, "both to wait")
        gate.shut_at = 2
        gate.open.set()
        await first
        await poll(lambda: gate.shut_at is None, "both to be decoded together")
        leaves.cancel()
        await poll(lambda: server.calls_under_way == 1, "the server to see that one has left")
        together = len(gate.rows)
        assert gate.rows[-1] == 2
        gate.open.set()
        response = await stays
        # The first token of both was under way; all others are of one.
        assert gate.rows[together:] == [1] * (STEPS - 1)
        alone = await stub.Caption(requests[1])
        assert ids_of(response.results[0].captions) == ids_of(alone.results[0].captions)
