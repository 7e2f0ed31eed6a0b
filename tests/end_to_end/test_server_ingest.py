"""SearchService.Ingest of a real server, by raw stubs."""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from PIL import Image

from mplug_api.v1 import common_pb2, index_service_pb2
from mplug_api.v1 import search_service_pb2 as pb
from mplug_api.v1.index_service_pb2_grpc import IndexServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from mplug_index.pictures import PictureStore
from mplug_services.server import Server
from services.serving import (
    GatedModel,
    fields_of,
    image_input,
    ingest_requests,
    picture,
    poll,
    read_all,
    reason_of,
    status_of,
    tiny_server,
)

Code = grpc.StatusCode


def options(collection: str = "pets", **values: Any) -> pb.IngestRequest:
    values = {"create_if_missing": True, **values}
    return pb.IngestRequest(options=pb.IngestOptions(collection=collection, **values))


def item(
    id: str, image: common_pb2.ImageInput | None = None, **payload: common_pb2.Value
) -> pb.IngestRequest:
    return pb.IngestRequest(item=pb.IngestItem(id=id, image=image or image_input(1), payload=payload))


async def ingest(channel: aio.Channel, requests: Iterable[pb.IngestRequest]) -> list[pb.IngestResponse]:
    stub: Any = SearchServiceStub(channel)
    return [each async for each in stub.Ingest(iter(requests))]


def acks(responses: Sequence[pb.IngestResponse]) -> dict[str, pb.IngestAck]:
    return {each.ack.id: each.ack for each in responses if each.HasField("ack")}


def errors(responses: Sequence[pb.IngestResponse]) -> dict[str, Any]:
    return {each.error.id: each.error.error for each in responses if each.HasField("error")}


async def count(channel: aio.Channel, collection: str = "pets") -> int:
    stub: Any = IndexServiceStub(channel)
    return int((await stub.Count(index_service_pb2.CountRequest(collection=collection))).count)


async def stored(server: Server, id: str) -> dict[str, Any]:
    """The whole payload of a point, with the server's own keys, read behind the API's back."""
    database = server.storage.database if server.storage is not None else None
    assert database is not None
    points, _ = await asyncio.to_thread(database.get, "pets", [id])
    return dict(points[0].payload)


async def test_everything_sent_is_answered_once(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as (_, channel):
        responses = await ingest(channel, ingest_requests("pets", range(150)))
        assert responses[0].started.collection == "pets"
        assert responses[0].started.model.name == "tiny"
        assert len(acks(responses)) == len(responses) - 1 == 150
        sequence_numbers = [ack.sequence_number for ack in acks(responses).values()]
        assert len(set(sequence_numbers)) == 150
        assert min(sequence_numbers) > 0
        assert await count(channel) == 150


async def test_an_ack_means_searchable(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as (_, channel):
        stub: Any = SearchServiceStub(channel)
        call = stub.Ingest()
        await call.write(options())
        for seed in range(5):
            await call.write(item(f"p{seed}", image_input(seed)))
            while not (response := await call.read()).HasField("ack"):
                assert response.HasField("started")
            part = pb.QueryPart(image=image_input(seed))
            found = await stub.Search(pb.SearchRequest(collection="pets", parts=[part]))
            assert found.hits[0].id == f"p{seed}"
        await call.done_writing()
        assert await call.read() is aio.EOF


async def test_bad_items_are_reported_and_the_others_go_in(tmp_path: Path) -> None:
    bad: dict[str, tuple[pb.IngestRequest, str]] = {
        "broken": (
            item("broken", common_pb2.ImageInput(data=picture(1, kind="JPEG")[:60])),
            "IMAGE_TRUNCATED",
        ),
        "text": (item("text", common_pb2.ImageInput(data=b"words")), "IMAGE_UNKNOWN_FORMAT"),
        "sourceless": (item("sourceless", common_pb2.ImageInput()), "EMPTY_IMAGE"),
        "reserved": (item("reserved", _sha256=common_pb2.Value(keyword="x")), "RESERVED_KEY"),
        "endless": (item("endless", size=common_pb2.Value(number=math.inf)), "INVALID_PAYLOAD"),
        "uri": (item("uri", common_pb2.ImageInput(uri="a.png")), "NO_IMAGE_ROOT"),
        "": (item(""), "INVALID_ID"),
        "x" * 600: (item("x" * 600), "INVALID_ID"),
    }
    requests = [options(), item("good"), *(each for each, _ in bad.values()), item("fine")]
    for skip_existing in (False, True):
        requests[0] = options(skip_existing=skip_existing)
        async with tiny_server(tmp_path / str(skip_existing)) as (_, channel):
            responses = await ingest(channel, requests)
            assert set(acks(responses)) == {"good", "fine"}
            assert {id: reason_of(error) for id, error in errors(responses).items()} == {
                id: reason for id, (_, reason) in bad.items()
            }
            assert fields_of(errors(responses)["reserved"]) == ["payload['_sha256']"]
            assert await count(channel) == 2


async def test_an_id_twice_in_a_stream_is_an_error_of_the_later_one(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as (_, channel):
        responses = await ingest(channel, [options(), item("a"), item("b"), item("a")])
        assert set(acks(responses)) == {"a", "b"}
        assert reason_of(errors(responses)["a"]) == "DUPLICATE_ID"


async def test_existing_ones_are_skipped_where_that_is_wished(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as (_, channel):
        await ingest(channel, ingest_requests("pets", range(3)))
        responses = await ingest(channel, ingest_requests("pets", range(5), skip_existing=True))
        assert {id: ack.skipped for id, ack in acks(responses).items()} == {
            "p0": True,
            "p1": True,
            "p2": True,
            "p3": False,
            "p4": False,
        }
        again = await ingest(channel, ingest_requests("pets", range(5)))
        assert not any(ack.skipped for ack in acks(again).values())
        assert await count(channel) == 5


async def test_pictures_are_kept_as_wished(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    large = picture(4, size=(1200, 600))
    (tmp_path / "root" / "large.png").write_bytes(large)
    sent = common_pb2.ImageInput(data=large)
    async with tiny_server(tmp_path, image_root=tmp_path / "root", keep_images="none") as (server, channel):
        for keep, name in (
            (pb.KEEP_IMAGES_ORIGINAL, "original"),
            (pb.KEEP_IMAGES_THUMBNAIL, "thumbnail"),
            (pb.KEEP_IMAGES_NONE, "none"),
            (pb.KEEP_IMAGES_UNSPECIFIED, "unspecified"),
        ):
            requests = [options(keep_images=keep), item(name, sent, tag=common_pb2.Value(keyword="x"))]
            assert set(acks(await ingest(channel, requests))) == {name}
        by_uri = [options(), item("by-uri", common_pb2.ImageInput(uri="large.png"))]
        assert set(acks(await ingest(channel, by_uri))) == {"by-uri"}

        pictures = PictureStore(tmp_path / "data" / "pictures")
        original = await stored(server, "original")
        assert original == {"tag": "x", "_sha256": hashlib.sha256(large).hexdigest()}
        assert pictures.get(original["_sha256"]) == large
        thumbnail = pictures.get((await stored(server, "thumbnail"))["_sha256"])
        with Image.open(io.BytesIO(thumbnail)) as small:
            assert (small.format, small.size) == ("JPEG", (512, 256))
        assert await stored(server, "none") == await stored(server, "unspecified") == {"tag": "x"}
        assert await stored(server, "by-uri") == {"_uri": "large.png"}

        # Clients see what they sent, nothing more.
        index: Any = IndexServiceStub(channel)
        got = await index.Get(index_service_pb2.GetRequest(collection="pets", ids=["original", "by-uri"]))
        assert [set(point.payload) for point in got.points] == [{"tag"}, set()]


@pytest.mark.parametrize(
    ("requests", "code", "reason"),
    [
        ([], Code.INVALID_ARGUMENT, "NO_OPTIONS"),
        ([item("a")], Code.INVALID_ARGUMENT, "NO_OPTIONS"),
        ([options(), options()], Code.INVALID_ARGUMENT, "NO_ITEM"),
        ([options("none", create_if_missing=False)], Code.NOT_FOUND, "COLLECTION_NOT_FOUND"),
        ([options("a/b")], Code.INVALID_ARGUMENT, "INVALID_NAME"),
        ([options(keep_images=9)], Code.INVALID_ARGUMENT, "UNKNOWN_KEEP_IMAGES"),
    ],
)
async def test_wrong_streams_end_with_their_reason(
    requests: list[pb.IngestRequest], code: Code, reason: str, tmp_path: Path
) -> None:
    async with tiny_server(tmp_path) as (_, channel):
        with pytest.raises(aio.AioRpcError) as failed:
            await ingest(channel, requests)
        assert failed.value.code() is code
        assert reason_of(status_of(failed.value)) == reason


async def test_a_full_engine_means_backoff_and_no_loss(tmp_path: Path) -> None:
    model = GatedModel()
    sizes = {"queue_size": 4, "max_batch_size": 4, "ingest_batch_size": 4, "max_batch_pixels": 32 * 32}
    async with tiny_server(tmp_path, model, **sizes) as (_server, channel):
        model.shut()
        stub: Any = SearchServiceStub(channel)
        call = stub.Ingest()
        for request in ingest_requests("pets", range(12)):
            await call.write(request)
        await call.done_writing()
        kinds = [(await call.read()).WhichOneof("message") for _ in range(2)]
        assert kinds == ["started", "backoff"]
        model.gate.set()
        responses = await read_all(call)
        assert set(acks(responses)) == {f"p{seed}" for seed in range(12)}
        assert not errors(responses)
        assert await count(channel) == 12


async def test_a_stream_is_read_no_further_than_its_bound(tmp_path: Path) -> None:
    model = GatedModel()
    read = 0

    async def requests() -> AsyncIterator[pb.IngestRequest]:
        nonlocal read
        # Large enough that the transport's own buffers hold few of them.
        padding = picture(1) + bytes(2**18)
        yield options(keep_images=pb.KEEP_IMAGES_NONE)
        for number in range(200):
            read += 1
            yield item(f"p{number}", common_pb2.ImageInput(data=padding))

    async with tiny_server(tmp_path, model, ingest_in_flight=8, ingest_batch_size=4) as (_, channel):
        model.shut()
        stub: Any = SearchServiceStub(channel)
        call = stub.Ingest(requests())
        await model.wait_for_pass()
        # The reading has stopped when it stays where it is while the loop has much time.
        before = -1
        while before != read:
            before = read
            await asyncio.sleep(0.3)
        assert 8 <= read < 60
        model.gate.set()
        responses = [each async for each in call]
        assert len(acks(responses)) == 200


async def test_a_client_that_goes_frees_the_queue(tmp_path: Path) -> None:
    model = GatedModel()
    async with tiny_server(tmp_path, model, max_batch_pixels=32 * 32) as (server, channel):
        model.shut()
        stub: Any = SearchServiceStub(channel)
        call = stub.Ingest(iter(ingest_requests("pets", range(20))))
        await model.wait_for_pass()
        await poll(lambda: server.queue_length > 10, "items to be queued")
        call.cancel()
        await poll(lambda: server.queue_length == 0, "the queue to be empty")
        model.gate.set()
        assert len(acks(await ingest(channel, ingest_requests("pets", [100])))) == 1
