"""A queue that is full while a rerank is under way: it answers rightly or in time, newcomers are told, room is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

import mplug
from mplug_api.v1 import embedding_service_pb2 as embed_pb
from mplug_api.v1 import rerank_service_pb2 as pb
from mplug_api.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from mplug_api.v1.rerank_service_pb2_grpc import RerankServiceStub
from mplug_services.engine import ModelWorker
from mplug_services.scheduler import Scheduler
from mplug_services.server import make_scheduler, running_server
from services.pets import fails
from services.rerank_servers import COUNT, TEXT, images, plain_scores, probabilities
from services.serving import GatedModel, picture, poll, reason_of, retry_seconds_of, serve_config

Code = grpc.StatusCode
ROOM = 8
ALL = pb.RerankRequest(text=TEXT, candidates=images(*range(ROOM)))


@dataclass
class Served:
    """Any: stubs of aio channels are typed as those of sync ones."""

    gate: GatedModel
    """Texts that are embedded stand here, and the worker with them."""
    scheduler: Scheduler
    rerank: Any
    embed: Any

    async def stop_the_worker(self) -> asyncio.Task[Any]:
        """A call whose text the worker holds in its hands until the gate opens."""
        self.gate.shut()
        call: asyncio.Task[Any] = asyncio.ensure_future(self.texts(1))
        await self.gate.wait_for_pass()
        return call

    def texts(self, count: int) -> Any:
        return self.embed.EmbedTexts(embed_pb.EmbedTextsRequest(texts=["piece3"] * count))

    async def check_room(self) -> None:
        """All of it can be used, and no more."""
        await poll(lambda: self.scheduler.occupied == 0, "the room to be given back")
        held = await self.stop_the_worker()
        filling = asyncio.ensure_future(self.texts(ROOM))
        await poll(lambda: len(self.scheduler) == ROOM, "the queue to be filled")
        assert reason_of(await fails(self.texts(1), Code.RESOURCE_EXHAUSTED)) == "QUEUE_FULL"
        self.gate.gate.set()
        assert len((await filling).results) == ROOM
        await held


@asynccontextmanager
async def small_server(folder: Path, models: Path) -> AsyncIterator[Served]:
    """Room for a few items, of a reranker and of embeddings."""
    gate = GatedModel()
    config = serve_config(
        folder,
        rerank_model=str(models / "rerank"),
        queue_size=ROOM,
        max_batch_size=ROOM,
        ingest_batch_size=ROOM,
        token_cache="none",
    )
    scheduler = make_scheduler(config)
    served = {"retrieval": gate, "rerank": mplug.load(models / "rerank", task="rerank")}
    async with (
        running_server(config, engine=ModelWorker(lambda: served, scheduler)) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        yield Served(gate, scheduler, RerankServiceStub(channel), EmbeddingServiceStub(channel))
        gate.gate.set()


@pytest.fixture(scope="module")
def expected(rerank_models: Path) -> list[float]:
    return plain_scores(rerank_models / "rerank", [picture(seed) for seed in range(COUNT)])


async def test_a_rerank_that_fills_the_queue_ends_and_newcomers_are_told(
    tmp_path: Path, rerank_models: Path, expected: list[float]
) -> None:
    async with small_server(tmp_path, rerank_models) as served:
        held = await served.stop_the_worker()
        rerank = asyncio.ensure_future(served.rerank.Rerank(ALL))
        await poll(lambda: len(served.scheduler) == ROOM, "the pictures to wait for the tower")
        for call in (served.texts(1), served.rerank.Rerank(ALL)):
            status = await fails(call, Code.RESOURCE_EXHAUSTED)
            assert reason_of(status) == "QUEUE_FULL"
            assert retry_seconds_of(status) > 0
        served.gate.gate.set()
        assert probabilities(await rerank) == pytest.approx(expected[:ROOM], abs=1e-5)
        assert len((await held).results) == 1
        await served.check_room()


async def test_a_rerank_gets_its_turn_among_calls_that_keep_the_queue_full(
    tmp_path: Path, rerank_models: Path, expected: list[float]
) -> None:
    refused = 0

    async def press(served: Served) -> None:
        """Takes half of the room again and again."""
        nonlocal refused
        for _ in range(20):
            try:
                await served.texts(ROOM // 2)
            except aio.AioRpcError as error:
                assert error.code() is Code.RESOURCE_EXHAUSTED
                refused += 1

    async with small_server(tmp_path, rerank_models) as served:
        held = await served.stop_the_worker()
        rerank = asyncio.ensure_future(served.rerank.Rerank(ALL))
        await poll(lambda: len(served.scheduler) == ROOM, "the pictures to wait for the tower")
        pressing = [asyncio.ensure_future(press(served)) for _ in range(4)]
        await poll(lambda: refused > 0, "the queue to be full for others")
        served.gate.gate.set()
        assert probabilities(await rerank) == pytest.approx(expected[:ROOM], abs=1e-5)
        await asyncio.gather(held, *pressing)
        await served.check_room()


async def test_a_rerank_whose_time_ends_in_a_full_queue_says_that_it_reached_none(
    tmp_path: Path, rerank_models: Path
) -> None:
    async with small_server(tmp_path, rerank_models) as served:
        held = await served.stop_the_worker()
        rerank = asyncio.ensure_future(served.rerank.Rerank(ALL, timeout=2.0))
        await poll(lambda: len(served.scheduler) == ROOM, "the pictures to wait for the tower")
        response = await rerank
        assert response.reranked_count == 0
        assert [result.not_reached for result in response.results] == [True] * ROOM
        assert served.scheduler.occupied == 0, "its items left before the worker came to them"
        served.gate.gate.set()
        await held
        await served.check_room()
