"""Flows over IndexService: collections, aliases, points."""

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC

from google.protobuf.message import Message

from mplug_api.v1 import index_service_pb2 as pb
from mplug_index.filters import Filter
from mplug_index.types import CollectionInfo, Metric, Point, ScoredPoint
from mplug_services.client.calls import Flow, ResponseT, ask, chunks, duplicates
from mplug_services.client.errors import InvalidRequestError, from_status
from mplug_services.client.model_flows import LimitsCache
from mplug_services.client.types import Part, UpsertOutcome
from mplug_services.client.wire import (
    filter_to_wire,
    payload_from_wire,
    payload_to_wire,
    vector_from_wire,
    vector_to_wire,
)

_METRICS = {Metric.COSINE: pb.METRIC_COSINE, Metric.DOT: pb.METRIC_DOT}


def _ask(rpc: str, request: Message, response_type: type[ResponseT]) -> Flow[ResponseT]:
    return (yield from ask("IndexService", rpc, request, response_type))


def create_collection(name: str, dimension: int, metric: Metric, fingerprint: str) -> Flow[CollectionInfo]:
    """Makes an empty collection."""
    request = pb.CreateCollectionRequest(
        name=name, dimension=dimension, metric=_METRICS[metric], embedding_fingerprint=fingerprint
    )
    response = yield from _ask("CreateCollection", request, pb.CreateCollectionResponse)
    return _collection(response.collection)


def get_collection(name: str) -> Flow[CollectionInfo]:
    """Describes a collection."""
    response = yield from _ask("GetCollection", pb.GetCollectionRequest(name=name), pb.GetCollectionResponse)
    return _collection(response.collection)


def list_collections() -> Flow[list[CollectionInfo]]:
    """Describes all collections."""
    response = yield from _ask("ListCollections", pb.ListCollectionsRequest(), pb.ListCollectionsResponse)
    return [_collection(collection) for collection in response.collections]


def delete_collection(name: str) -> Flow[None]:
    """Deletes a collection and everything in it."""
    yield from _ask("DeleteCollection", pb.DeleteCollectionRequest(name=name), pb.DeleteCollectionResponse)


def set_alias(alias: str, collection: str) -> Flow[None]:
    """Points an alias at a collection, from wherever it pointed before."""
    yield from _ask("SetAlias", pb.SetAliasRequest(alias=alias, collection=collection), pb.SetAliasResponse)


def delete_alias(alias: str) -> Flow[None]:
    """Removes an alias."""
    yield from _ask("DeleteAlias", pb.DeleteAliasRequest(alias=alias), pb.DeleteAliasResponse)


def upsert(
    collection: str, points: Sequence[Point], fingerprint: str, cache: LimitsCache
) -> Flow[list[UpsertOutcome]]:
    """Inserts or replaces points, each with its own outcome."""
    twice = duplicates([point.id for point in points])
    if twice:
        # The server sees only a chunk at a time.
        raise InvalidRequestError(
            f"ids stand more than once in the batch: {twice[:10]}", reason="DUPLICATE_IDS"
        )
    limits = yield from cache.get()
    outcomes: list[UpsertOutcome] = []
    for chunk in chunks(_points_to_wire(points), pb.Point.ByteSize, limits):
        request = pb.UpsertRequest(
            collection=collection,
            points=chunk,
            embedding_fingerprint=fingerprint,
            request_id=str(uuid.uuid4()),
        )
        response = yield from _ask("Upsert", request, pb.UpsertResponse)
        outcomes += [_upsert_outcome(chunk[result.index].id, result) for result in response.results]
    return outcomes


def delete(
    collection: str, ids: Sequence[str] | None, filter: Filter | None, cache: LimitsCache
) -> Flow[int]:
    """Deletes by ids, by filter or by both; returns how many points were there."""
    if ids is None and filter is None:
        raise InvalidRequestError("delete takes ids, a filter or both", reason="NOTHING_TO_DELETE")
    limits = yield from cache.get()
    deleted = 0
    batches: list[list[str]] = [[]] if ids is None else list(chunks(ids, len, limits))
    for batch in batches:
        request = pb.DeleteRequest(
            collection=collection, ids=batch, filter=filter_to_wire(filter), request_id=str(uuid.uuid4())
        )
        deleted += (yield from _ask("Delete", request, pb.DeleteResponse)).deleted_count
    return deleted


def get(
    collection: str, ids: Sequence[str], with_vector: bool, cache: LimitsCache
) -> Flow[tuple[list[Point], list[str]]]:
    """Reads points by id; the second list names the ids that are not there."""
    limits = yield from cache.get()
    points: list[Point] = []
    missing: list[str] = []
    for batch in chunks(ids, len, limits):
        request = pb.GetRequest(collection=collection, ids=batch, with_vector=with_vector)
        response = yield from _ask("Get", request, pb.GetResponse)
        points += [_point(point) for point in response.points]
        missing += response.missing_ids
    return points, missing


def count(collection: str, filter: Filter | None) -> Flow[int]:
    """Counts the points that satisfy a filter, or all."""
    request = pb.CountRequest(collection=collection, filter=filter_to_wire(filter))
    return (yield from _ask("Count", request, pb.CountResponse)).count


def scroll_page(
    collection: str, filter: Filter | None, page_size: int, page_token: str, with_vector: bool
) -> Flow[tuple[list[Point], str]]:
    """One page of all points, and the token of the next page; "" at the end."""
    request = pb.ScrollRequest(
        collection=collection,
        filter=filter_to_wire(filter),
        page_size=page_size,
        page_token=page_token,
        with_vector=with_vector,
    )
    response = yield from _ask("Scroll", request, pb.ScrollResponse)
    return [_point(point) for point in response.points], response.next_page_token


def query(
    collection: str,
    parts: Sequence[Part],
    filter: Filter | None,
    top_k: int,
    with_vector: bool,
    fingerprint: str,
) -> Flow[list[ScoredPoint]]:
    """The nearest points to a weighted sum of vectors and stored points."""
    request = pb.QueryRequest(
        collection=collection,
        parts=[_part(part) for part in parts],
        filter=filter_to_wire(filter),
        top_k=top_k,
        with_vector=with_vector,
        embedding_fingerprint=fingerprint,
    )
    response = yield from _ask("Query", request, pb.QueryResponse)
    return [ScoredPoint(_point(scored.point), scored.score) for scored in response.points]


def _collection(collection: pb.Collection) -> CollectionInfo:
    return CollectionInfo(
        name=collection.name,
        dimension=collection.dimension,
        metric=Metric.DOT if collection.metric == pb.METRIC_DOT else Metric.COSINE,
        fingerprint=collection.embedding_fingerprint,
        point_count=collection.point_count,
        create_time=collection.create_time.ToDatetime(tzinfo=UTC),
        aliases=tuple(collection.aliases),
    )


def _points_to_wire(points: Sequence[Point]) -> Iterator[pb.Point]:
    for point in points:
        if point.vector is None:
            raise InvalidRequestError(f"point {point.id!r} has no vector", reason="NO_VECTOR")
        yield pb.Point(
            id=point.id, vector=vector_to_wire(point.vector), payload=payload_to_wire(point.payload)
        )


def _point(point: pb.Point) -> Point:
    vector = vector_from_wire(point.vector) if point.HasField("vector") else None
    return Point(id=point.id, vector=vector, payload=payload_from_wire(point.payload))


def _part(part: Part) -> pb.VectorPart:
    if part.vector is not None:
        return pb.VectorPart(vector=vector_to_wire(part.vector), weight=part.weight)
    if part.stored_id is None:
        raise InvalidRequestError("a query takes vectors and stored ids; texts and pictures are for search")
    return pb.VectorPart(stored_id=part.stored_id, weight=part.weight)


def _upsert_outcome(id: str, result: pb.UpsertResult) -> UpsertOutcome:
    if result.HasField("error"):
        return UpsertOutcome(id, error=from_status(result.error))
    return UpsertOutcome(id, sequence_number=result.ok.sequence_number)
