"""SIGKILL of a real server process during an ingest: what was acknowledged is there."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from mplug.checkpoints import native
from mplug_api.v1 import index_service_pb2, search_service_pb2
from mplug_api.v1.index_service_pb2_grpc import IndexServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from services.serving import NO_MODELS, build_model, image_input, ingest_requests

SCRIPT = """
import asyncio, json, sys
from mplug_services.config import load_config
from mplug_services.server import serve

flags = json.loads(sys.argv[1])
asyncio.run(serve(load_config(flags, environment={}), ready=lambda server: print(server.address, flush=True)))
"""


@asynccontextmanager
async def server_process(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, aio.Channel]]:
    """A server in a process of its own, ready, and a channel to it; ended by SIGTERM unless it is dead."""
    places = {"data_dir": str(folder / "data"), "model": str(folder / "tiny")}
    flags = {"port": 0, "torch_threads": 1, **places, **NO_MODELS}
    command = [sys.executable, "-c", SCRIPT, json.dumps(flags)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), 50)).decode().strip()
        assert address, "the server did not start"
        async with aio.insecure_channel(address) as channel:
            yield process, channel
    finally:
        if process.returncode is None:
            process.terminate()
        code = await asyncio.wait_for(process.wait(), 40)
        assert code in (0, -signal.SIGKILL), code


async def ingest_until(channel: aio.Channel, count: int, kill_after: int, process: Any) -> set[str]:
    """Ids acknowledged before the server was killed, after a number of acks; 0: never. Any: a Process."""
    stub: Any = SearchServiceStub(channel)
    acked: set[str] = set()

    async def requests() -> AsyncIterator[search_service_pb2.IngestRequest]:
        # skip_existing, as a re-run of the command line has it.
        all_requests = ingest_requests("pets", range(count), skip_existing=True)
        for request in all_requests[:-10]:
            yield request
        # Held back, so that no stream is at its end before the kill.
        if kill_after:
            await process.wait()
        for request in all_requests[-10:]:
            yield request

    call = stub.Ingest(requests())
    try:
        async for response in call:
            if response.HasField("ack"):
                acked.add(response.ack.id)
            assert not response.HasField("error"), response.error
            if kill_after and len(acked) >= kill_after and process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()
    except aio.AioRpcError:
        assert kill_after, "the server went away by itself"
    return acked


async def check(channel: aio.Channel, acked: set[str]) -> int:
    """Every acknowledged point is there and found; how many points there are."""
    index: Any = IndexServiceStub(channel)
    search: Any = SearchServiceStub(channel)
    ids = sorted(acked)
    for start in range(0, len(ids), 500):
        request = index_service_pb2.GetRequest(collection="pets", ids=ids[start : start + 500])
        assert not (await index.Get(request)).missing_ids
    for id in ids[:: max(1, len(ids) // 5)]:
        part = search_service_pb2.QueryPart(image=image_input(int(id[1:])))
        found = await search.Search(
            search_service_pb2.SearchRequest(collection="pets", parts=[part], top_k=1)
        )
        assert found.hits[0].score == pytest.approx(1.0, abs=1e-4)
    return int((await index.Count(index_service_pb2.CountRequest(collection="pets"))).count)


async def crash_and_resume(folder: Path, count: int, kills: list[int]) -> int:
    """How many points there are after the kills and one whole run."""
    native.save(build_model(), folder / "tiny")
    acked: set[str] = set()
    for kill_after in kills:
        async with server_process(folder) as (process, channel):
            if acked:
                assert len(acked) <= await check(channel, acked) <= count
            # Acks of what earlier runs put in come first.
            acked |= await ingest_until(channel, count, len(acked) + kill_after, process)
            assert kill_after <= len(acked) < count
    async with server_process(folder) as (process, channel):
        assert len(acked) <= await check(channel, acked) <= count
        acked = await ingest_until(channel, count, 0, process)
        assert acked == {f"p{seed}" for seed in range(count)}
        return await check(channel, acked)


@pytest.mark.timeout(120)
async def test_acknowledged_pictures_survive_sigkill(tmp_path: Path) -> None:
    assert await crash_and_resume(tmp_path, 300, [60]) == 300


@pytest.mark.timeout(300)
@pytest.mark.long
async def test_a_thousand_pictures_survive_three_kills(tmp_path: Path) -> None:
    assert await crash_and_resume(tmp_path, 1000, [1, 150, 333]) == 1000
