"""IndexService: collections of vectors; no model behind it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from grpc import aio

from mplug_api.v1 import common_pb2
from mplug_api.v1 import index_service_pb2 as pb
from mplug_api.v1.index_service_pb2_grpc import IndexServiceServicer
from mplug_index.database import Database
from mplug_index.errors import DuplicateIdError
from mplug_index.filters import Filter
from mplug_index.types import CollectionInfo, Metric, Point, QueryPart, ScoredPoint, UpsertOutcome
from mplug_services import wire
from mplug_services.blocking import BlockingPool
from mplug_services.config import ServeConfig
from mplug_services.embedder import StageSeconds
from mplug_services.errors import error_status, invalid_argument
from mplug_services.wire_filter import read_filter

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it

DEFAULT_TOP_K = 10
DEFAULT_PAGE_SIZE = 100

_METRICS = {
    pb.METRIC_UNSPECIFIED: Metric.COSINE,
    pb.METRIC_COSINE: Metric.COSINE,
    pb.METRIC_DOT: Metric.DOT,
}


class IndexService(IndexServiceServicer):
    """The servicer. RPC names are those of the API (N802).

    Args:
        database: the collections.
        pool: where its calls run.
        config: limits.
    """

    def __init__(self, database: Database, pool: BlockingPool, config: ServeConfig) -> None:
        self._database = database
        self._pool = pool
        self._config = config

    async def CreateCollection(  # noqa: N802
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """Make an empty collection."""
        if request.metric not in _METRICS:
            raise invalid_argument("metric", f"{request.metric} is no known Metric", reason="UNKNOWN_METRIC")
        info = await self._pool.run(
            self._database.create_collection,
            request.name,
            request.dimension,
            _METRICS[request.metric],
            request.embedding_fingerprint,
        )
        return pb.CreateCollectionResponse(collection=_write_collection(info))

    async def GetCollection(  # noqa: N802
        self, request: pb.GetCollectionRequest, context: Context
    ) -> pb.GetCollectionResponse:
        """Describe a collection."""
        info = await self._pool.run(self._database.get_collection, request.name)
        return pb.GetCollectionResponse(collection=_write_collection(info))

    async def ListCollections(  # noqa: N802
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        """Describe all collections."""
        infos = await self._pool.run(self._database.list_collections)
        return pb.ListCollectionsResponse(collections=[_write_collection(info) for info in infos])

    async def DeleteCollection(  # noqa: N802
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        """Delete a collection and everything in it."""
        await self._pool.run(self._database.delete_collection, request.name)
        return pb.DeleteCollectionResponse()

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:  # noqa: N802
        """Point a second name at a collection."""
        await self._pool.run(self._database.set_alias, request.alias, request.collection)
        return pb.SetAliasResponse()

    async def DeleteAlias(  # noqa: N802
        self, request: pb.DeleteAliasRequest, context: Context
    ) -> pb.DeleteAliasResponse:
        """Delete a second name."""
        await self._pool.run(self._database.delete_alias, request.alias)
        return pb.DeleteAliasResponse()

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:  # noqa: N802
        """Insert or replace points, each with its own result."""
        started = time.monotonic()
        wire.check_batch(len(request.points), "points", self._config.max_batch_size)
        repeated = wire.duplicates(point.id for point in request.points)
        if repeated:
            raise DuplicateIdError(repeated)
        results, points = _read_points(request.points)
        outcomes = await self._pool.run(
            self._database.upsert,
            request.collection,
            list(points.values()),
            fingerprint=request.embedding_fingerprint,
            request_id=request.request_id,
        )
        for index, outcome in zip(points, outcomes, strict=True):
            results[index] = _write_outcome(index, outcome)
        return pb.UpsertResponse(
            results=[results[index] for index in range(len(request.points))], timings=_timings(started)
        )

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:  # noqa: N802
        """Delete by ids or by filter."""
        started = time.monotonic()
        if not request.ids and not request.HasField("filter"):
            raise invalid_argument("ids", "give ids or a filter", reason="NOTHING_TO_DELETE")
        deleted = await self._pool.run(
            self._database.delete,
            request.collection,
            ids=list(request.ids) or None,
            filter=_optional_filter(request),
            request_id=request.request_id,
        )
        return pb.DeleteResponse(deleted_count=deleted, timings=_timings(started))

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:  # noqa: N802
        """Read points by id."""
        wire.check_batch(len(request.ids), "ids", self._config.max_page_size)
        points, missing = await self._pool.run(
            self._database.get, request.collection, list(request.ids), with_vector=request.with_vector
        )
        return pb.GetResponse(points=[_write_point(point) for point in points], missing_ids=missing)

    async def Count(self, request: pb.CountRequest, context: Context) -> pb.CountResponse:  # noqa: N802
        """Count points."""
        count = await self._pool.run(self._database.count, request.collection, _optional_filter(request))
        return pb.CountResponse(count=count)

    async def Scroll(self, request: pb.ScrollRequest, context: Context) -> pb.ScrollResponse:  # noqa: N802
        """Walk all points, page by page."""
        page_size = wire.read_limited(
            request.page_size, "page_size", DEFAULT_PAGE_SIZE, self._config.max_page_size
        )
        points, token = await self._pool.run(
            self._database.scroll,
            request.collection,
            filter=_optional_filter(request),
            page_size=page_size,
            page_token=request.page_token,
            with_vector=request.with_vector,
        )
        return pb.ScrollResponse(points=[_write_point(point) for point in points], next_page_token=token)

    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryResponse:  # noqa: N802
        """Find the nearest points."""
        started = time.monotonic()
        wire.check_batch(len(request.parts), "parts", self._config.max_query_parts)
        parts = [_read_part(part, f"parts[{place}]") for place, part in enumerate(request.parts)]
        found = await self._pool.run(
            self._database.query,
            request.collection,
            parts,
            top_k=wire.read_limited(request.top_k, "top_k", DEFAULT_TOP_K, self._config.max_top_k),
            filter=_optional_filter(request),
            with_vector=request.with_vector,
            fingerprint=request.embedding_fingerprint,
        )
        return pb.QueryResponse(points=[_write_scored(each) for each in found], timings=_timings(started))


def _read_points(messages: Sequence[pb.Point]) -> tuple[dict[int, pb.UpsertResult], dict[int, Point]]:
    """Failures of points that cannot be read, and those that can, by their places."""
    failures: dict[int, pb.UpsertResult] = {}
    points: dict[int, Point] = {}
    for index, message in enumerate(messages):
        field = f"points[{index}]"
        try:
            vector = wire.read_vector(message.vector, f"{field}.vector")
            points[index] = Point(message.id, vector, wire.read_payload(message.payload, f"{field}.payload"))
        except Exception as error:
            failures[index] = pb.UpsertResult(index=index, error=error_status(error, field=field))
    return failures, points


def _write_outcome(index: int, outcome: UpsertOutcome) -> pb.UpsertResult:
    if outcome.error is None:
        done = pb.UpsertedPoint(id=outcome.id, sequence_number=outcome.sequence_number)
        return pb.UpsertResult(index=index, ok=done)
    field = f"points[{index}].{outcome.error.field}".rstrip(".")
    return pb.UpsertResult(index=index, error=error_status(outcome.error, field=field))


def _read_part(part: pb.VectorPart, field: str) -> QueryPart:
    weight = wire.read_weight(part, field)
    kind = part.WhichOneof("part")
    if kind == "vector":
        return QueryPart(vector=wire.read_vector(part.vector, f"{field}.vector"), weight=weight)
    if kind == "stored_id":
        return QueryPart(stored_id=part.stored_id, weight=weight)
    raise invalid_argument(field, "the part has neither vector nor stored_id", reason="EMPTY_PART")


def _optional_filter(
    request: pb.DeleteRequest | pb.CountRequest | pb.ScrollRequest | pb.QueryRequest,
) -> Filter | None:
    return read_filter(request.filter) if request.HasField("filter") else None


def _write_collection(info: CollectionInfo) -> pb.Collection:
    return pb.Collection(
        name=info.name,
        dimension=info.dimension,
        metric=pb.METRIC_DOT if info.metric is Metric.DOT else pb.METRIC_COSINE,
        embedding_fingerprint=info.fingerprint,
        point_count=info.point_count,
        create_time=wire.write_time(info.create_time),
        aliases=info.aliases,
    )


def _write_point(point: Point) -> pb.Point:
    vector = None if point.vector is None else wire.write_vector(point.vector)
    return pb.Point(id=point.id, vector=vector, payload=wire.write_payload(point.payload))


def _write_scored(scored: ScoredPoint) -> pb.ScoredPoint:
    return pb.ScoredPoint(point=_write_point(scored.point), score=scored.score)


def _timings(started: float) -> common_pb2.Timings:
    return wire.write_timings(StageSeconds(index=time.monotonic() - started), started)
