"""SearchService.Search and ModelService of a real server, by raw stubs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from numpy.typing import NDArray

from mplug_api.v1 import common_pb2, embedding_service_pb2, index_service_pb2, model_service_pb2
from mplug_api.v1 import search_service_pb2 as pb
from services.pets import COUNT, Stubs, fails, pets_server
from services.serving import (
    build_model,
    fields_of,
    image_input,
    ingest_requests,
    reason_of,
    vectors_of,
)

Code = grpc.StatusCode
Vector = NDArray[np.float32]


@pytest.fixture
async def stubs(tmp_path: Path) -> AsyncIterator[Stubs]:
    async with pets_server(tmp_path) as stubs:
        yield stubs


def search(*parts: pb.QueryPart, **options: Any) -> pb.SearchRequest:
    return pb.SearchRequest(collection="pets", parts=parts, **options)


async def embed(stubs: Stubs, *, text: str = "", seed: int = -1) -> Vector:
    if text:
        response = await stubs.embedding.EmbedTexts(embedding_service_pb2.EmbedTextsRequest(texts=[text]))
    else:
        request = embedding_service_pb2.EmbedImagesRequest(images=[image_input(seed)])
        response = await stubs.embedding.EmbedImages(request)
    vector: np.ndarray[Any, np.dtype[np.float32]] = vectors_of(response.results)[0]
    return vector


async def exact(stubs: Stubs, query: NDArray[np.floating]) -> dict[str, float]:
    """Cosine of every stored picture with a query."""
    request = embedding_service_pb2.EmbedImagesRequest(images=[image_input(seed) for seed in range(COUNT)])
    stored = vectors_of((await stubs.embedding.EmbedImages(request)).results)
    scores = stored @ (query / np.linalg.norm(query))
    return {f"p{seed}": float(scores[seed]) for seed in range(COUNT)}


def scores_of(response: pb.SearchResponse) -> dict[str, float]:
    return {hit.id: hit.score for hit in response.hits}


async def test_search_by_text(stubs: Stubs) -> None:
    response = await stubs.search.Search(search(pb.QueryPart(text="piece3 piece8"), top_k=20))
    assert scores_of(response) == pytest.approx(
        await exact(stubs, await embed(stubs, text="piece3 piece8")), abs=1e-5
    )
    scores = [hit.score for hit in response.hits]
    assert scores == sorted(scores, reverse=True)
    assert (response.model.name, list(response.truncated_parts)) == ("tiny", [])
    for stage in ("prepare", "queue", "forward", "index", "total"):
        assert response.timings.HasField(stage), stage


async def test_search_by_picture_finds_itself_first(stubs: Stubs) -> None:
    response = await stubs.search.Search(search(pb.QueryPart(image=image_input(5)), top_k=3))
    assert (response.hits[0].id, len(response.hits)) == ("p5", 3)
    assert response.hits[0].score == pytest.approx(1.0, abs=1e-5)


async def test_search_by_a_picture_under_the_root(stubs: Stubs) -> None:
    request = search(pb.QueryPart(image=common_pb2.ImageInput(uri="one.png")))
    assert (await stubs.search.Search(request)).hits[0].id == "p1"


async def test_search_by_text_and_picture_with_weights(stubs: Stubs) -> None:
    parts = [pb.QueryPart(text="piece3", weight=0.25), pb.QueryPart(image=image_input(4), weight=-0.75)]
    response = await stubs.search.Search(search(*parts, top_k=20))
    query = np.float32(0.25) * await embed(stubs, text="piece3") - np.float32(0.75) * await embed(
        stubs, seed=4
    )
    assert scores_of(response) == pytest.approx(await exact(stubs, query.astype(np.float32)), abs=1e-4)


async def test_search_by_stored_id_leaves_it_out(stubs: Stubs) -> None:
    response = await stubs.search.Search(search(pb.QueryPart(stored_id="p2"), top_k=20))
    expected = await exact(stubs, await embed(stubs, seed=2))
    del expected["p2"]
    assert scores_of(response) == pytest.approx(expected, abs=1e-5)


async def test_search_by_vector(stubs: Stubs) -> None:
    vector = await embed(stubs, seed=7)
    part = pb.QueryPart(vector=common_pb2.Vector(data=vector.astype("<f4").tobytes()))
    response = await stubs.search.Search(search(part))
    assert response.hits[0].id == "p7"
    assert not response.timings.HasField("forward")


async def test_a_long_text_is_truncated_and_says_so(stubs: Stubs) -> None:
    parts = [pb.QueryPart(image=image_input(1)), pb.QueryPart(text="piece4 " * 5000)]
    response = await stubs.search.Search(search(*parts))
    assert list(response.truncated_parts) == [1]
    assert len(response.hits) == 10


async def test_search_with_a_filter(stubs: Stubs) -> None:
    condition = common_pb2.Condition(ids=common_pb2.IdCondition(ids=["p3", "p9"]))
    response = await stubs.search.Search(
        search(pb.QueryPart(text="piece1"), filter=common_pb2.Filter(must=[condition]))
    )
    assert {hit.id for hit in response.hits} == {"p3", "p9"}


WRONG_SEARCHES: list[tuple[str, pb.SearchRequest, Code, str, list[str]]] = [
    ("no parts", search(), Code.INVALID_ARGUMENT, "EMPTY_QUERY", ["parts"]),
    ("no part in a part", search(pb.QueryPart()), Code.INVALID_ARGUMENT, "EMPTY_PART", ["parts[0]"]),
    (
        "an empty text",
        search(pb.QueryPart(stored_id="p1"), pb.QueryPart(text=" ")),
        Code.INVALID_ARGUMENT,
        "EMPTY_TEXT",
        ["parts[1].text"],
    ),
    (
        "a broken picture",
        search(pb.QueryPart(text="piece1"), pb.QueryPart(image=common_pb2.ImageInput(data=b"zz"))),
        Code.INVALID_ARGUMENT,
        "IMAGE_UNKNOWN_FORMAT",
        ["parts[1].image"],
    ),
    (
        "a picture that is not there",
        search(pb.QueryPart(image=common_pb2.ImageInput(uri="none"))),
        Code.NOT_FOUND,
        "PICTURE_NOT_FOUND",
        [],
    ),
    (
        "a vector of another length",
        search(pb.QueryPart(vector=common_pb2.Vector(data=bytes(4 * 3)))),
        Code.INVALID_ARGUMENT,
        "DIMENSION_MISMATCH",
        [],
    ),
    (
        "a vector with NaN",
        search(pb.QueryPart(vector=common_pb2.Vector(data=np.full(16, np.nan, "<f4").tobytes()))),
        Code.INVALID_ARGUMENT,
        "INVALID_VECTOR",
        ["parts[0].vector"],
    ),
    (
        "an id that is not there",
        search(pb.QueryPart(stored_id="p99")),
        Code.NOT_FOUND,
        "POINT_NOT_FOUND",
        [],
    ),
    (
        "too many results",
        search(pb.QueryPart(text="piece1"), top_k=1001),
        Code.INVALID_ARGUMENT,
        "OUT_OF_RANGE",
        ["top_k"],
    ),
    (
        "too many parts",
        search(*[pb.QueryPart(text="piece1")] * 17),
        Code.INVALID_ARGUMENT,
        "BATCH_TOO_LARGE",
        ["parts"],
    ),
    (
        "an unknown collection",
        pb.SearchRequest(collection="none", parts=[pb.QueryPart(text="piece1")]),
        Code.NOT_FOUND,
        "COLLECTION_NOT_FOUND",
        [],
    ),
    (
        "a filter without predicate",
        search(
            pb.QueryPart(text="piece1"),
            filter=common_pb2.Filter(must=[common_pb2.Condition(field=common_pb2.FieldCondition(key="k"))]),
        ),
        Code.INVALID_ARGUMENT,
        "INVALID_FILTER",
        ["filter.must[0].field"],
    ),
]


async def test_wrong_searches_are_refused_with_their_reason(stubs: Stubs) -> None:
    for name, request, code, reason, fields in WRONG_SEARCHES:
        status = await fails(stubs.search.Search(request), code)
        assert reason_of(status) == reason, name
        if fields:
            assert fields_of(status) == fields, name


@pytest.mark.parametrize("fingerprint", ["", "of-another-model"])
async def test_a_collection_of_another_space_is_refused(stubs: Stubs, fingerprint: str) -> None:
    create = index_service_pb2.CreateCollectionRequest(
        name="other", dimension=16, embedding_fingerprint=fingerprint
    )
    await stubs.index.CreateCollection(create)
    request = pb.SearchRequest(collection="other", parts=[pb.QueryPart(text="piece1")])
    status = await fails(stubs.search.Search(request), Code.FAILED_PRECONDITION)
    assert reason_of(status) == "FINGERPRINT_MISMATCH"
    with pytest.raises(aio.AioRpcError) as failed:
        async for _ in stubs.search.Ingest(iter(ingest_requests("other", [1]))):
            pass
    assert failed.value.code() is Code.FAILED_PRECONDITION
    # Vectors are the caller's own affair.
    part = pb.QueryPart(vector=common_pb2.Vector(data=np.ones(16, "<f4").tobytes()))
    assert not (await stubs.search.Search(pb.SearchRequest(collection="other", parts=[part]))).hits


async def test_server_info(stubs: Stubs) -> None:
    info = await stubs.model.GetServerInfo(model_service_pb2.GetServerInfoRequest())
    (model,) = info.models
    assert (model.name, model.task, model.device, model.dtype) == ("tiny", "retrieval", "cpu", "float32")
    assert (model.embedding_dimension, model.max_text_tokens) == (16, 25)
    assert model.embedding_fingerprint == build_model().fingerprint
    assert model.parameter_count > 10_000
    assert list(info.services) == [
        f"mplug_api.v1.{name}Service" for name in ("Embedding", "Index", "Search", "Job", "Model")
    ]
    limits = info.limits
    assert (limits.max_message_bytes, limits.max_batch_size, limits.queue_size) == (64 * 2**20, 256, 1024)
    assert limits.max_id_bytes == 512
    assert info.start_time.seconds > 0
