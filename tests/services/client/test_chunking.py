from pathlib import Path

import numpy as np
import pytest

from mplug_api.v1 import common_pb2, embedding_service_pb2, index_service_pb2
from mplug_services.client import AsyncClient, Client, ImageInput, InvalidRequestError, Point
from services.client.scripted_server import LIMITS, ScriptedServer


def vector(*numbers: float) -> common_pb2.Vector:
    return common_pb2.Vector(data=np.array(numbers, "<f4").tobytes())


class Embedder:
    """Embeds a text or picture as its length, and remembers the sizes of the batches."""

    def __init__(self, server: ScriptedServer) -> None:
        self.batches: list[int] = []
        server.on("EmbedTexts", self.texts)
        server.on("EmbedImages", self.images)

    def texts(self, request: embedding_service_pb2.EmbedTextsRequest, context: object) -> object:
        results = self.results([len(text) for text in request.texts])
        return embedding_service_pb2.EmbedTextsResponse(results=results)

    def images(self, request: embedding_service_pb2.EmbedImagesRequest, context: object) -> object:
        results = self.results([len(image.data) for image in request.images])
        return embedding_service_pb2.EmbedImagesResponse(results=results)

    def results(self, lengths: list[int]) -> list[embedding_service_pb2.EmbedResult]:
        self.batches.append(len(lengths))
        return [
            embedding_service_pb2.EmbedResult(
                index=i, embedding=embedding_service_pb2.Embedding(vector=vector(length))
            )
            for i, length in enumerate(lengths)
        ]


def test_a_large_batch_is_split_by_the_server_s_limit(server: ScriptedServer) -> None:
    embedder = Embedder(server)
    texts = ["x" * n for n in range(1, 11)]
    with Client(server.address) as client:
        outcomes = client.embed_texts(texts)
    assert embedder.batches == [4, 4, 2]
    assert [outcome.index for outcome in outcomes] == list(range(10))
    assert [float(outcome.vector[0]) for outcome in outcomes if outcome.vector is not None] == list(
        range(1, 11)
    )


async def test_a_large_batch_is_split_by_the_server_s_limit_async(server: ScriptedServer) -> None:
    embedder = Embedder(server)
    async with AsyncClient(server.address) as client:
        outcomes = await client.embed_texts(["a"] * 5)
    assert embedder.batches == [4, 1]
    assert [outcome.index for outcome in outcomes] == list(range(5))


def test_limits_are_asked_for_once(server: ScriptedServer) -> None:
    Embedder(server)
    with Client(server.address) as client:
        client.embed_texts(["a"])
        client.embed_texts(["b"])
    assert server.calls.count("GetServerInfo") == 1


def test_an_empty_batch_sends_nothing(server: ScriptedServer) -> None:
    embedder = Embedder(server)
    with Client(server.address) as client:
        assert client.embed_texts([]) == []
    assert embedder.batches == []


def test_batches_are_split_by_bytes(server: ScriptedServer) -> None:
    embedder = Embedder(server)
    third = LIMITS.max_message_bytes // 3
    with Client(server.address) as client:
        outcomes = client.embed_images([bytes(third), bytes(third), bytes(third), b"abc"])
    assert embedder.batches == [2, 2]
    assert all(outcome.error is None for outcome in outcomes)


def test_pictures_that_cannot_be_sent_have_errors_and_harm_no_neighbour(
    server: ScriptedServer, tmp_path: Path
) -> None:
    Embedder(server)
    good = tmp_path / "good.png"
    good.write_bytes(b"12345")
    too_large = bytes(LIMITS.max_message_bytes)
    with Client(server.address) as client:
        outcomes = client.embed_images([tmp_path / "gone.png", good, too_large, ImageInput(data=b"1")])
    assert [outcome.error.reason if outcome.error else "" for outcome in outcomes] == [
        "UNREADABLE_FILE",
        "",
        "IMAGE_TOO_MANY_BYTES",
        "",
    ]
    assert "gone.png" in str(outcomes[0].error)


def test_upserts_are_split_and_keep_their_order(server: ScriptedServer) -> None:
    requests: list[index_service_pb2.UpsertRequest] = []

    def upsert(request: index_service_pb2.UpsertRequest, context: object) -> index_service_pb2.UpsertResponse:
        requests.append(request)
        results = [
            index_service_pb2.UpsertResult(
                index=i, ok=index_service_pb2.UpsertedPoint(id=p.id, sequence_number=9)
            )
            for i, p in enumerate(request.points)
        ]
        return index_service_pb2.UpsertResponse(results=results)

    server.on("Upsert", upsert)
    points = [Point(id=f"p{n}", vector=np.ones(3, np.float32), payload={"n": n}) for n in range(6)]
    with Client(server.address) as client:
        outcomes = client.upsert("things", points)
    assert [len(request.points) for request in requests] == [4, 2]
    assert [outcome.id for outcome in outcomes] == [point.id for point in points]
    assert len({request.request_id for request in requests}) == 2
    assert all(request.request_id for request in requests)


def test_an_id_twice_in_a_batch_is_refused_before_anything_is_sent(server: ScriptedServer) -> None:
    points = [Point(id=f"p{n % 5}", vector=np.ones(3, np.float32), payload={}) for n in range(6)]
    with Client(server.address) as client, pytest.raises(InvalidRequestError, match="p0"):
        client.upsert("things", points)
    assert server.calls == []
