import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from mplug_api.v1.search_service_pb2 import (
    KEEP_IMAGES_THUMBNAIL,
    Backoff,
    IngestAck,
    IngestError,
    IngestRequest,
    IngestResponse,
    IngestStarted,
)
from mplug_services.client import (
    AsyncClient,
    Client,
    IngestItem,
    InvalidRequestError,
    KeepImages,
    NotFoundError,
    UnavailableError,
)
from services.client.conftest import FAST_RETRY
from services.client.scripted_server import ScriptedServer

Requests = Iterator[IngestRequest]
Responses = Iterator[IngestResponse]

STARTED = IngestResponse(started=IngestStarted(collection="pets"))


def items(count: int) -> list[IngestItem]:
    return [IngestItem(id=f"p{n}", image=b"picture", payload={"n": n}) for n in range(count)]


def ack(request: IngestRequest, number: int = 1) -> IngestResponse:
    return IngestResponse(ack=IngestAck(id=request.item.id, sequence_number=number))


def acknowledging(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
    next(request_iterator)
    yield STARTED
    for number, request in enumerate(request_iterator, start=1):
        yield ack(request, number)


def test_every_item_has_an_outcome(server: ScriptedServer) -> None:
    server.on("Ingest", acknowledging)
    with Client(server.address) as client:
        outcomes = list(client.ingest("pets", items(100), window=8))
    assert [outcome.id for outcome in outcomes] == [item.id for item in items(100)]
    assert [outcome.sequence_number for outcome in outcomes] == list(range(1, 101))


@pytest.mark.parametrize("asynchronous_items", [False, True])
async def test_every_item_has_an_outcome_async(server: ScriptedServer, asynchronous_items: bool) -> None:
    async def generate() -> AsyncIterator[IngestItem]:
        for item in items(20):
            yield item

    server.on("Ingest", acknowledging)
    async with AsyncClient(server.address) as client:
        source = generate() if asynchronous_items else items(20)
        ids = [outcome.id async for outcome in client.ingest("pets", source, window=4)]
    assert ids == [item.id for item in items(20)]


def test_the_first_message_carries_the_options(server: ScriptedServer) -> None:
    first: list[IngestRequest] = []

    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        first.append(next(request_iterator))
        yield STARTED

    server.on("Ingest", answer)
    with Client(server.address) as client:
        assert list(client.ingest("pets", [], create=False, keep_images=KeepImages.THUMBNAIL)) == []
    options = first[0].options
    assert options.collection == "pets"
    assert not options.create_if_missing
    assert options.skip_existing
    assert options.keep_images == KEEP_IMAGES_THUMBNAIL


def test_no_more_than_the_window_is_under_way(server: ScriptedServer) -> None:
    taken: list[str] = []
    full = threading.Event()
    ahead: list[int] = []

    def source() -> Iterator[IngestItem]:
        for item in items(20):
            taken.append(item.id)
            yield item

    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        next(request_iterator)
        yield STARTED
        waiting = [next(request_iterator) for _ in range(5)]
        full.set()
        # Nothing has been answered so far: the client may not have taken a sixth item.
        ahead.append(len(taken))
        yield from (ack(request) for request in waiting)
        yield from (ack(request) for request in request_iterator)

    server.on("Ingest", answer)
    with Client(server.address) as client:
        outcomes = list(client.ingest("pets", source(), window=5))
    assert full.is_set()
    assert ahead == [5]
    assert len(outcomes) == 20


def test_a_server_that_is_behind_is_left_in_peace(server: ScriptedServer) -> None:
    arrivals: list[float] = []

    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        next(request_iterator)
        yield STARTED
        first = next(request_iterator)
        yield IngestResponse(backoff=Backoff(delay=Duration(nanos=400_000_000)))
        arrivals.append(time.monotonic())
        yield ack(first)
        for request in request_iterator:
            arrivals.append(time.monotonic())
            yield ack(request)

    server.on("Ingest", answer)
    with Client(server.address) as client:
        outcomes = list(client.ingest("pets", items(3), window=1))
    assert len(outcomes) == 3
    assert arrivals[1] - arrivals[0] >= 0.35


def breaking_once(after: int) -> tuple[list[list[str]], object]:
    """An Ingest that breaks its first stream after some acks, with more items unanswered."""
    streams: list[list[str]] = []

    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        next(request_iterator)
        yield STARTED
        got: list[str] = []
        streams.append(got)
        for request in request_iterator:
            got.append(request.item.id)
            if len(streams) == 1 and len(got) > after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            yield ack(request)

    return streams, answer


def test_a_broken_stream_is_taken_up_again_and_loses_nothing(server: ScriptedServer) -> None:
    streams, answer = breaking_once(after=3)
    server.on("Ingest", answer)  # type: ignore[arg-type]  # returned as object beside what it records
    with Client(server.address, retry=FAST_RETRY) as client:
        outcomes = list(client.ingest("pets", items(10), window=4))
    assert sorted(outcome.id for outcome in outcomes) == sorted(item.id for item in items(10))
    assert len(streams) == 2
    assert not {outcome.id for outcome in outcomes[:3]} & set(streams[1])


async def test_a_broken_stream_is_taken_up_again_async(server: ScriptedServer) -> None:
    streams, answer = breaking_once(after=3)
    server.on("Ingest", answer)  # type: ignore[arg-type]  # returned as object beside what it records
    async with AsyncClient(server.address, retry=FAST_RETRY) as client:
        ids = [outcome.id async for outcome in client.ingest("pets", items(10), window=4)]
    assert sorted(ids) == sorted(item.id for item in items(10))
    assert len(streams) == 2


def test_a_stream_that_ends_too_early_is_an_error(server: ScriptedServer) -> None:
    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        next(request_iterator)
        yield STARTED

    server.on("Ingest", answer)
    with (
        Client(server.address, retry=FAST_RETRY) as client,
        pytest.raises(UnavailableError, match="before it had answered every picture"),
    ):
        list(client.ingest("pets", items(1)))
    assert server.calls.count("Ingest") == FAST_RETRY.max_attempts


def test_a_stream_that_is_refused_raises(server: ScriptedServer) -> None:
    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        yield from ()
        context.abort(grpc.StatusCode.NOT_FOUND, "no collection named pets")

    server.on("Ingest", answer)
    with Client(server.address) as client, pytest.raises(NotFoundError, match="pets"):
        list(client.ingest("pets", items(3), create=False))


def test_an_item_s_error_is_its_outcome(server: ScriptedServer, tmp_path: Path) -> None:
    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        next(request_iterator)
        yield STARTED
        for request in request_iterator:
            error = Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="not an image")
            yield IngestResponse(error=IngestError(id=request.item.id, error=error))

    server.on("Ingest", answer)
    sources = [
        IngestItem("broken", b"?"),
        IngestItem("gone", tmp_path / "gone.png"),
        IngestItem("odd", b"?", {"size": {"w": 1}}),  # type: ignore[dict-item]  # the mistake to be refused
    ]
    with Client(server.address) as client:
        errors = {outcome.id: outcome.error for outcome in client.ingest("pets", sources)}
    assert {id: type(error) for id, error in errors.items()} == dict.fromkeys(
        ("broken", "gone", "odd"), InvalidRequestError
    )
    assert "payload['size']" in str(errors["odd"])


def test_an_id_twice_under_way_is_refused(server: ScriptedServer) -> None:
    server.on("Ingest", acknowledging)
    with Client(server.address) as client:
        outcomes = list(client.ingest("pets", [*items(2), *items(1)]))
    refused = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(outcomes) == 3
    assert [(outcome.id, outcome.error.reason) for outcome in refused if outcome.error] == [
        ("p0", "DUPLICATE_IDS")
    ]


def test_a_caller_who_stops_early_ends_the_stream(server: ScriptedServer) -> None:
    ended = threading.Event()

    def answer(request_iterator: Requests, context: grpc.ServicerContext) -> Responses:
        context.add_callback(ended.set)
        yield from acknowledging(request_iterator, context)

    server.on("Ingest", answer)
    with Client(server.address) as client:
        outcomes = iter(client.ingest("pets", items(100), window=2))
        assert next(outcomes).id == "p0"
        del outcomes
        assert ended.wait(timeout=10)


def test_a_window_of_nothing_is_refused(server: ScriptedServer) -> None:
    with Client(server.address) as client, pytest.raises(ValueError, match="window"):
        client.ingest("pets", [], window=0)
