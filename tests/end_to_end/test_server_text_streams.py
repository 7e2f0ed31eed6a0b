"""Texts that come and go while others are written: each is what it is alone, and none waits for what it need not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc

from golden.gpt3_cases import tiny_generator
from mplug.gpt3 import Gpt3Generator
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1 import search_service_pb2 as search_pb
from mplug_api.v1 import text_service_pb2 as pb
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from mplug_api.v1.text_service_pb2_grpc import TextServiceStub
from mplug_services.engine import ModelWorker
from mplug_services.server import Server, make_scheduler
from services.generation_servers import Gate, ids_of, model_server
from services.pets import fails
from services.serving import build_model, ingest_requests, poll, reason_of, retry_seconds_of, serve_config
from services.text_servers import alone, greedy, text_server, writer_gate

Code = grpc.StatusCode
STEPS = 30
LONG = greedy(STEPS)
SHORT = greedy(2)


def model_with_gate() -> tuple[Gpt3Generator, Gate]:
    model = tiny_generator("plain")
    return model, writer_gate(model)


async def pass_one(gate: Gate) -> None:
    """Until a step stands at the gate."""
    assert await asyncio.to_thread(gate.arrived.acquire, True, 30)


def hold(gate: Gate) -> None:
    """Shut the gate, forgetting what came before."""
    while gate.arrived.acquire(blocking=False):
        pass
    gate.steps = 0
    gate.rows.clear()
    gate.open.clear()


async def last_of(stream: Any) -> gen.GeneratedTexts:
    """What a stream ends with. Any: an aio call."""
    *_, last = [each async for each in stream]
    finished: gen.GeneratedTexts = last.progress.finished
    return finished


def request(text: str, options: gen.GenerationOptions = LONG) -> pb.StreamGenerateRequest:
    return pb.StreamGenerateRequest(text=text, options=options)


async def test_eight_streams_are_what_each_is_alone(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    options: list[tuple[gen.GenerationOptions, dict[str, Any]]] = []
    for number in range(8):
        length = 12 + 2 * number
        if number % 2:
            sampling = gen.Sampling(top_k=7, seed=number)
            wire = gen.GenerationOptions(max_length=length, min_length=length, sampling=sampling)
            own = {"method": "sample", "top_k": 7, "seed": number}
        else:
            wire, own = greedy(length), {"method": "greedy"}
        options.append((wire, {**own, "max_length": length, "min_length": length}))
    texts = [f"piece{20 + number} piece{40 + number}" for number in range(8)]
    expected = [alone(model, text, **settings) for text, (_, settings) in zip(texts, options, strict=True)]
    async with text_server(tmp_path, {"text-generation": model}) as (server, channel):
        stub: Any = TextServiceStub(channel)
        hold(gate)
        streams = [
            asyncio.ensure_future(last_of(stub.StreamGenerate(request(text, wire))))
            for text, (wire, _) in zip(texts, options, strict=True)
        ]
        await poll(lambda: server.calls_under_way == 8, "all to be there")
        gate.open.set()
        found = await asyncio.gather(*streams)
    assert [ids_of(each) for each in found] == [[list(one.token_ids) for one in each] for each in expected]
    assert max(gate.rows) == 8, "all were written together"


async def test_a_short_text_joins_a_long_one_and_is_there_first(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    async with text_server(tmp_path, {"text-generation": model}) as (server, channel):
        stub: Any = TextServiceStub(channel)
        hold(gate)
        long = asyncio.ensure_future(last_of(stub.StreamGenerate(request("piece5"))))
        await pass_one(gate)
        short = stub.Generate(pb.GenerateRequest(texts=["piece6"], options=SHORT))
        await poll(lambda: server.queue_length == 1, "the short one to wait")
        gate.shut_at = 2
        gate.open.set()
        await poll(lambda: gate.shut_at is None, "both to be written together")
        assert not long.done()
        together = gate.steps
        gate.open.set()
        response = await short
        assert len(response.results[0].texts.texts[0].token_ids) == 4
        assert together <= 4
        await long
        assert gate.rows.count(2) == 1


async def test_a_search_overtakes_texts_between_two_tokens(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    models = {"retrieval": build_model(), "text-generation": model}
    async with model_server(tmp_path, models, text_model="given") as (server, channel):
        texts: Any = TextServiceStub(channel)
        searches: Any = SearchServiceStub(channel)
        assert [each async for each in searches.Ingest(iter(ingest_requests("pets", range(3))))]
        hold(gate)
        streams = [
            asyncio.ensure_future(last_of(texts.StreamGenerate(request(f"piece{5 + n}")))) for n in range(3)
        ]
        await pass_one(gate)
        query = search_pb.SearchRequest(collection="pets", parts=[search_pb.QueryPart(text="piece7")])
        await poll(lambda: server.calls_under_way == 3, "the streams to be there")
        search = searches.Search(query, timeout=20.0)
        await poll(lambda: server.calls_under_way == 4, "the search to be there")
        await poll(lambda: server.queue_length >= 1, "the search to wait for the model")
        steps = gate.steps
        gate.open.set()
        assert len((await search).hits) == 3
        assert not any(stream.done() for stream in streams) or gate.steps - steps < STEPS
        await asyncio.gather(*streams)


async def test_a_client_that_leaves_gives_its_place_to_another(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    # A place for two.
    budget = 2 * (2 + STEPS)
    async with text_server(tmp_path, {"text-generation": model}, max_live_tokens=budget) as (server, channel):
        stub: Any = TextServiceStub(channel)
        hold(gate)
        leaves = stub.StreamGenerate(request("piece5"))
        reading = asyncio.ensure_future(leaves.read())
        await pass_one(gate)
        stays, waits = (
            asyncio.ensure_future(last_of(stub.StreamGenerate(request(f"piece{6 + n}")))) for n in range(2)
        )
        await poll(lambda: server.queue_length == 2, "two to wait")
        gate.shut_at = 2
        gate.open.set()
        await poll(lambda: gate.shut_at is None, "two to be written together")
        assert server.queue_length == 1
        leaves.cancel()
        await asyncio.wait([reading])
        await poll(lambda: server.calls_under_way == 2, "the server to see that one has left")
        gate.open.set()
        await asyncio.gather(stays, waits)
        assert max(gate.rows) == 2
        assert gate.rows.count(2) >= STEPS - 5, "the third took the place of the first at once"


async def test_a_text_past_its_deadline_ends(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    async with text_server(tmp_path, {"text-generation": model}) as (server, channel):
        stub: Any = TextServiceStub(channel)
        hold(gate)
        batch = pb.GenerateRequest(texts=["piece5", "piece6"], options=LONG)
        call = asyncio.ensure_future(fails(stub.Generate(batch, timeout=1.0), Code.DEADLINE_EXCEEDED))
        await pass_one(gate)
        await asyncio.wait([call])
        await poll(lambda: server.calls_under_way == 0, "the server to end the call")
        gate.open.set()
        response = await stub.Generate(pb.GenerateRequest(texts=["piece7"], options=greedy(1)))
        assert response.results[0].HasField("texts")
        assert gate.rows == [2, 1]


async def test_more_than_the_queue_holds_is_refused_with_a_hint(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    limits = {"queue_size": 4, "max_batch_size": 4, "max_live_tokens": 2 + STEPS, "ingest_batch_size": 4}
    async with text_server(tmp_path, {"text-generation": model}, **limits) as (server, channel):
        stub: Any = TextServiceStub(channel)
        hold(gate)
        running = asyncio.ensure_future(last_of(stub.StreamGenerate(request("piece5"))))
        await pass_one(gate)
        waiting = stub.Generate(pb.GenerateRequest(texts=["piece6"] * 4, options=SHORT))
        await poll(lambda: server.queue_length == 4, "four to wait")
        refused = stub.StreamGenerate(request("piece7"))
        status = await fails(refused.read(), Code.RESOURCE_EXHAUSTED)
        assert reason_of(status) == "QUEUE_FULL"
        assert retry_seconds_of(status) > 0
        gate.open.set()
        await running
        assert all(result.HasField("texts") for result in (await waiting).results)


async def test_a_stop_lets_streams_end_and_refuses_new_ones(tmp_path: Path) -> None:
    model, gate = model_with_gate()
    config = serve_config(tmp_path, model="", text_model="given", services=("text",))
    server = Server(config, engine=ModelWorker(lambda: {"text-generation": model}, make_scheduler(config)))
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = TextServiceStub(channel)
        hold(gate)
        stream = asyncio.ensure_future(last_of(stub.StreamGenerate(request("piece5"))))
        await pass_one(gate)
        stopping = asyncio.create_task(server.stop())
        late = stub.StreamGenerate(request("piece6"))
        assert reason_of(await fails(late.read(), Code.UNAVAILABLE)) == "SERVER_STOPPING"
        gate.open.set()
        assert len((await stream).texts[0].token_ids) == 2 + STEPS
        await asyncio.wait_for(stopping, 10)
