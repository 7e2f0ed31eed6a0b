"""IndexService of a real server, alone: no model, no torch."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc import aio

from mplug_api.v1 import common_pb2
from mplug_api.v1 import index_service_pb2 as pb
from mplug_api.v1.index_service_pb2_grpc import IndexServiceStub
from mplug_services import wire
from mplug_services.server import running_server
from services.serving import detail, fields_of, reason_of, serve_config, status_of, unpack

Code = grpc.StatusCode


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Any]:
    """A stub whose collection `things` has dimension 3. Any: the stub of an aio channel."""
    async with (
        running_server(serve_config(tmp_path, services=("index",))) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        stub: Any = IndexServiceStub(channel)
        await stub.CreateCollection(pb.CreateCollectionRequest(name="things", dimension=3))
        yield stub


def vector(*numbers: float) -> common_pb2.Vector:
    return common_pb2.Vector(data=np.array(numbers, dtype="<f4").tobytes())


def point(id: str, *numbers: float, **payload: common_pb2.Value) -> pb.Point:
    return pb.Point(id=id, vector=vector(*numbers), payload=payload)


def upsert(*points: pb.Point, **options: Any) -> pb.UpsertRequest:
    return pb.UpsertRequest(collection="things", points=points, **options)


async def fails(call: Any, code: Code) -> Any:
    """The status of a call that must fail. Any: an aio call."""
    with pytest.raises(aio.AioRpcError) as failed:
        await call
    assert failed.value.code() is code, failed.value.details()
    return status_of(failed.value)


async def test_collections_live_and_die(stub: Any) -> None:
    request = pb.CreateCollectionRequest(
        name="dots", dimension=2, metric=pb.METRIC_DOT, embedding_fingerprint="f"
    )
    made = (await stub.CreateCollection(request)).collection
    assert (made.name, made.dimension, made.metric) == ("dots", 2, pb.METRIC_DOT)
    assert (made.embedding_fingerprint, made.point_count) == ("f", 0)
    assert reason_of(await fails(stub.CreateCollection(request), Code.ALREADY_EXISTS)) == "COLLECTION_EXISTS"
    await stub.SetAlias(pb.SetAliasRequest(alias="current", collection="dots"))
    assert (await stub.GetCollection(pb.GetCollectionRequest(name="current"))).collection.aliases == [
        "current"
    ]
    await stub.DeleteAlias(pb.DeleteAliasRequest(alias="current"))
    listed = (await stub.ListCollections(pb.ListCollectionsRequest())).collections
    assert [each.name for each in listed] == ["dots", "things"]
    await stub.DeleteCollection(pb.DeleteCollectionRequest(name="dots"))
    status = await fails(stub.GetCollection(pb.GetCollectionRequest(name="dots")), Code.NOT_FOUND)
    assert reason_of(status) == "COLLECTION_NOT_FOUND"


async def test_points_with_payload_of_every_kind(stub: Any) -> None:
    moment = datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=UTC)
    payload = {
        "name": common_pb2.Value(keyword="猫"),
        "size": common_pb2.Value(number=2.5),
        "seen": common_pb2.Value(boolean=True),
        "taken": common_pb2.Value(time=wire.write_time(moment)),
        "tags": common_pb2.Value(keywords=common_pb2.KeywordList(values=["a", "b"])),
    }
    response = await stub.Upsert(upsert(point("a", 3, 0, 4, **payload), point("b", 0, 1, 0)))
    assert [each.ok.id for each in response.results] == ["a", "b"]
    assert response.results[0].ok.sequence_number > 0
    assert response.timings.HasField("index")
    got = await stub.Get(pb.GetRequest(collection="things", ids=["a", "none"], with_vector=True))
    assert list(got.missing_ids) == ["none"]
    assert dict(got.points[0].payload) == payload
    np.testing.assert_allclose(unpack(got.points[0].vector.data), [0.6, 0, 0.8], atol=1e-6)


async def test_each_point_has_its_own_result(stub: Any) -> None:
    bad = {
        1: (point("short", 1, 2), "DIMENSION_MISMATCH", "points[1].vector"),
        2: (point("nan", 1, math.nan, 2), "INVALID_VECTOR", "points[2].vector"),
        3: (point("zero", 0, 0, 0), "INVALID_VECTOR", "points[3].vector"),
        4: (pb.Point(id="none"), "INVALID_VECTOR", "points[4].vector"),
        5: (point("", 1, 0, 0), "INVALID_ID", "points[5].id"),
        6: (point("x" * 513, 1, 0, 0), "INVALID_ID", "points[6].id"),
        7: (
            point("odd", 1, 0, 0, _uri=common_pb2.Value(number=1)),
            "RESERVED_KEY",
            "points[7].payload['_uri']",
        ),
    }
    points = [point("first", 1, 0, 0), *(each for each, _, _ in bad.values()), point("last", 0, 1, 0)]
    response = await stub.Upsert(upsert(*points))
    assert [result.index for result in response.results] == list(range(9))
    assert [response.results[place].ok.id for place in (0, 8)] == ["first", "last"]
    for place, (_, reason, field) in bad.items():
        error = response.results[place].error
        assert (reason_of(error), fields_of(error)) == (reason, [field])
    assert (await stub.Count(pb.CountRequest(collection="things"))).count == 2


async def test_a_batch_with_an_id_twice_is_refused_whole(stub: Any) -> None:
    request = upsert(point("a", 1, 0, 0), point("b", 0, 1, 0), point("a", 0, 0, 1), point("b", 1, 1))
    status = await fails(stub.Upsert(request), Code.INVALID_ARGUMENT)
    assert reason_of(status) == "DUPLICATE_IDS"
    assert detail(status, ErrorInfo).metadata["ids"] == "a, b"
    assert (await stub.Count(pb.CountRequest(collection="things"))).count == 0


async def test_a_repeated_request_changes_nothing(stub: Any) -> None:
    first = await stub.Upsert(upsert(point("a", 1, 0, 0), request_id="r1"))
    again = await stub.Upsert(upsert(point("a", 1, 0, 0), request_id="r1"))
    assert first.results == again.results


async def test_query_and_filter(stub: Any) -> None:
    small, large = common_pb2.Value(number=1), common_pb2.Value(number=9)
    points = [point("a", 1, 0, 0, n=small), point("b", 1, 1, 0, n=large), point("c", 0, 0, 1, n=large)]
    await stub.Upsert(upsert(*points))
    parts = [
        pb.VectorPart(vector=vector(1, 0.2, 0)),
        pb.VectorPart(stored_id="c", weight=-0.5),
    ]
    request = pb.QueryRequest(collection="things", parts=parts, with_vector=True)
    hits = (await stub.Query(request)).points
    assert [hit.point.id for hit in hits] == ["a", "b"]
    assert hits[0].score > hits[1].score
    assert len(hits[0].point.vector.data) == 12
    bound = common_pb2.FieldCondition(key="n", number_range=common_pb2.NumberRange(gte=5))
    large_only = common_pb2.Filter(must=[common_pb2.Condition(field=bound)])
    request.filter.CopyFrom(large_only)
    assert [hit.point.id for hit in (await stub.Query(request)).points] == ["b"]
    counted = await stub.Count(pb.CountRequest(collection="things", filter=large_only))
    assert counted.count == 2
    deleted = await stub.Delete(pb.DeleteRequest(collection="things", filter=large_only))
    assert deleted.deleted_count == 2
    assert (await stub.Count(pb.CountRequest(collection="things"))).count == 1


async def test_a_walk_over_all_points(stub: Any) -> None:
    await stub.Upsert(upsert(*(point(f"p{n:02}", 1, n, 0) for n in range(25))))
    seen: list[str] = []
    token = ""
    while True:
        page = await stub.Scroll(pb.ScrollRequest(collection="things", page_size=10, page_token=token))
        seen += [each.id for each in page.points]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"p{n:02}" for n in range(25)]


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        (
            "Upsert",
            pb.UpsertRequest(collection="none", points=[point("a", 1)]),
            Code.NOT_FOUND,
            "COLLECTION_NOT_FOUND",
        ),
        ("Upsert", upsert(), Code.INVALID_ARGUMENT, "EMPTY_BATCH"),
        (
            "Upsert",
            upsert(*(point(f"{n}", 1, 0, 0) for n in range(257))),
            Code.INVALID_ARGUMENT,
            "BATCH_TOO_LARGE",
        ),
        ("Delete", pb.DeleteRequest(collection="things"), Code.INVALID_ARGUMENT, "NOTHING_TO_DELETE"),
        ("Query", pb.QueryRequest(collection="things"), Code.INVALID_ARGUMENT, "EMPTY_BATCH"),
        (
            "Query",
            pb.QueryRequest(collection="things", parts=[pb.VectorPart()]),
            Code.INVALID_ARGUMENT,
            "EMPTY_PART",
        ),
        (
            "Query",
            pb.QueryRequest(collection="things", parts=[pb.VectorPart(vector=vector(1, 2))]),
            Code.INVALID_ARGUMENT,
            "DIMENSION_MISMATCH",
        ),
        (
            "Query",
            pb.QueryRequest(collection="things", parts=[pb.VectorPart(stored_id="none")]),
            Code.NOT_FOUND,
            "POINT_NOT_FOUND",
        ),
        (
            "Scroll",
            pb.ScrollRequest(collection="things", page_size=-1),
            Code.INVALID_ARGUMENT,
            "OUT_OF_RANGE",
        ),
        (
            "Scroll",
            pb.ScrollRequest(collection="things", page_token="?"),
            Code.INVALID_ARGUMENT,
            "INVALID_PAGE_TOKEN",
        ),
        ("Get", pb.GetRequest(collection="things"), Code.INVALID_ARGUMENT, "EMPTY_BATCH"),
        (
            "CreateCollection",
            pb.CreateCollectionRequest(name="a/b", dimension=3),
            Code.INVALID_ARGUMENT,
            "INVALID_NAME",
        ),
        (
            "CreateCollection",
            pb.CreateCollectionRequest(name="n"),
            Code.INVALID_ARGUMENT,
            "DIMENSION_MISMATCH",
        ),
        (
            "CreateCollection",
            pb.CreateCollectionRequest(name="n", dimension=3, metric=7),  # type: ignore[arg-type]  # unknown
            Code.INVALID_ARGUMENT,
            "UNKNOWN_METRIC",
        ),
        ("DeleteAlias", pb.DeleteAliasRequest(alias="none"), Code.NOT_FOUND, "ALIAS_NOT_FOUND"),
    ],
)
async def test_wrong_requests(stub: Any, method: str, request_: Any, code: Code, reason: str) -> None:
    assert reason_of(await fails(getattr(stub, method)(request_), code)) == reason


async def test_vectors_of_another_space_are_refused(stub: Any) -> None:
    request = pb.CreateCollectionRequest(name="mine", dimension=3, embedding_fingerprint="mine")
    await stub.CreateCollection(request)
    wrong = pb.UpsertRequest(collection="mine", points=[point("a", 1, 0, 0)], embedding_fingerprint="other")
    assert reason_of(await fails(stub.Upsert(wrong), Code.FAILED_PRECONDITION)) == "FINGERPRINT_MISMATCH"
    query = pb.QueryRequest(
        collection="mine", parts=[pb.VectorPart(vector=vector(1, 0, 0))], embedding_fingerprint="other"
    )
    assert reason_of(await fails(stub.Query(query), Code.FAILED_PRECONDITION)) == "FINGERPRINT_MISMATCH"


def test_a_server_of_the_index_alone_imports_no_torch(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from mplug_services.config import ServeConfig
from mplug_services.server import running_server

async def main():
    config = ServeConfig(port=0, data_dir=Path(sys.argv[1]), services=("index",))
    async with running_server(config) as server:
        assert server.address, server
asyncio.run(main())
heavy = {"torch", "timm", "open_clip", "torchvision"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "data")], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
