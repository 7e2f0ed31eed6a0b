"""EmbeddingService of a real server, by raw stubs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from grpc import aio

from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug_api.v1 import common_pb2, embedding_service_pb2
from mplug_api.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from services.pets import Stubs, fails, pets_server
from services.serving import (
    build_model,
    fields_of,
    image_input,
    picture,
    reason_of,
    tiny_server,
    unpack,
    vectors_of,
)

Code = grpc.StatusCode


@pytest.fixture
async def stubs(tmp_path: Path) -> AsyncIterator[Stubs]:
    async with pets_server(tmp_path) as stubs:
        yield stubs


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


BAD_IMAGES: list[tuple[str, common_pb2.ImageInput, str]] = [
    ("no image", common_pb2.ImageInput(data=b"certainly no image"), "IMAGE_UNKNOWN_FORMAT"),
    (
        "truncated",
        common_pb2.ImageInput(data=picture(1, size=(400, 400), kind="JPEG")[:-500]),
        "IMAGE_TRUNCATED",
    ),
    ("a bomb", common_pb2.ImageInput(data=png_header(30_000, 30_000)), "IMAGE_TOO_MANY_PIXELS"),
    ("0 bytes", common_pb2.ImageInput(data=b""), "IMAGE_EMPTY"),
    ("no source", common_pb2.ImageInput(), "EMPTY_IMAGE"),
    (
        "too many bytes",
        common_pb2.ImageInput(data=b"\x89PNG\r\n\x1a\n" + bytes(20 * 2**20)),
        "IMAGE_TOO_MANY_BYTES",
    ),
    ("a missing file", common_pb2.ImageInput(uri="none.png"), "PICTURE_NOT_FOUND"),
    ("outside of the root", common_pb2.ImageInput(uri="../data/index/index.sqlite"), "PICTURE_ACCESS_DENIED"),
]


async def test_vectors_are_the_models(stubs: Stubs) -> None:
    images = [image_input(1), common_pb2.ImageInput(uri="one.png"), image_input(2)]
    request = embedding_service_pb2.EmbedImagesRequest(images=images)
    response = await stubs.embedding.EmbedImages(request)
    assert [result.index for result in response.results] == [0, 1, 2]
    model = build_model()
    pixels = np.stack([to_pixels(decode_image(picture(seed)), 32) for seed in (1, 1, 2)])
    with torch.inference_mode():
        expected = model.embed_images(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(vectors_of(response.results), expected, atol=1e-5)
    assert response.model.fingerprint == model.fingerprint
    for stage in ("prepare", "queue", "forward", "total"):
        assert response.timings.HasField(stage), stage


async def test_half_precision_vectors(stubs: Stubs) -> None:
    texts = ["piece7 piece9"]
    full = await stubs.embedding.EmbedTexts(embedding_service_pb2.EmbedTextsRequest(texts=texts))
    half = await stubs.embedding.EmbedTexts(
        embedding_service_pb2.EmbedTextsRequest(texts=texts, dtype=common_pb2.VECTOR_DTYPE_FLOAT16)
    )
    ours = half.results[0].embedding.vector
    assert ours.dtype == common_pb2.VECTOR_DTYPE_FLOAT16
    np.testing.assert_allclose(unpack(ours.data, "<f2"), vectors_of(full.results)[0], atol=1e-3)


async def test_a_bad_picture_harms_no_neighbour(stubs: Stubs, tmp_path: Path) -> None:
    images = [image_input(1), *(image for _, image, _ in BAD_IMAGES), image_input(2)]
    response = await stubs.embedding.EmbedImages(embedding_service_pb2.EmbedImagesRequest(images=images))
    first, *bad, last = response.results
    assert first.HasField("embedding")
    assert last.HasField("embedding")
    for place, ((name, _, reason), result) in enumerate(zip(BAD_IMAGES, bad, strict=True), start=1):
        assert result.index == place
        assert reason_of(result.error) == reason, name
        assert str(tmp_path) not in str(result.error)
        if result.error.code == Code.INVALID_ARGUMENT.value[0]:
            assert fields_of(result.error) == [f"images[{place}]"], name


async def test_a_batch_of_bad_items_only(stubs: Stubs) -> None:
    images = embedding_service_pb2.EmbedImagesRequest(images=[BAD_IMAGES[0][1]])
    response = await stubs.embedding.EmbedImages(images)
    assert reason_of(response.results[0].error) == "IMAGE_UNKNOWN_FORMAT"


async def test_texts_have_their_own_results(stubs: Stubs) -> None:
    texts = ["piece1", "", "  \n", "piece2 " * 5000, "x" * 300_000]
    response = await stubs.embedding.EmbedTexts(embedding_service_pb2.EmbedTextsRequest(texts=texts))
    results = response.results
    assert [result.WhichOneof("result") for result in results] == [
        "embedding",
        "error",
        "error",
        "embedding",
        "error",
    ]
    assert [results[0].embedding.truncated, results[3].embedding.truncated] == [False, True]
    assert [reason_of(results[place].error) for place in (1, 2, 4)] == [
        "EMPTY_TEXT",
        "EMPTY_TEXT",
        "TEXT_TOO_LONG",
    ]
    assert fields_of(results[1].error) == ["texts[1]"]


@pytest.mark.parametrize("count", [0, 257])
async def test_batches_have_limits(stubs: Stubs, count: int) -> None:
    request = embedding_service_pb2.EmbedTextsRequest(texts=["piece1"] * count)
    status = await fails(stubs.embedding.EmbedTexts(request), Code.INVALID_ARGUMENT)
    assert fields_of(status) == ["texts"]
    images = embedding_service_pb2.EmbedImagesRequest(images=[common_pb2.ImageInput()] * count)
    status = await fails(stubs.embedding.EmbedImages(images), Code.INVALID_ARGUMENT)
    assert fields_of(status) == ["images"]


async def test_a_message_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with tiny_server(tmp_path, max_message_bytes=2**20) as (_, channel):
        stub: Any = EmbeddingServiceStub(channel)
        request = embedding_service_pb2.EmbedImagesRequest(images=[common_pb2.ImageInput(data=bytes(2**21))])
        with pytest.raises(aio.AioRpcError) as failed:
            await stub.EmbedImages(request)
        assert failed.value.code() is Code.RESOURCE_EXHAUSTED
        small = embedding_service_pb2.EmbedTextsRequest(texts=["piece1"])
        assert len((await stub.EmbedTexts(small)).results) == 1
