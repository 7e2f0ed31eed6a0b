"""A server with a collection of pictures, and stubs of all its services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from mplug_api.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from mplug_api.v1.index_service_pb2_grpc import IndexServiceStub
from mplug_api.v1.model_service_pb2_grpc import ModelServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from services.serving import ingest_requests, picture, status_of, tiny_server

COUNT = 12
"""Pictures of the collection `pets`: p0, p1..."""


@dataclass
class Stubs:
    """Any: stubs of aio channels are typed as those of sync ones."""

    embedding: Any
    index: Any
    search: Any
    model: Any


@asynccontextmanager
async def pets_server(folder: Path) -> AsyncIterator[Stubs]:
    """A server whose collection `pets` holds p0 to p11."""
    (folder / "root").mkdir()
    (folder / "root" / "one.png").write_bytes(picture(1))
    async with tiny_server(folder, image_root=folder / "root") as (_, channel):
        stubs = Stubs(
            EmbeddingServiceStub(channel),
            IndexServiceStub(channel),
            SearchServiceStub(channel),
            ModelServiceStub(channel),
        )
        responses = [each async for each in stubs.search.Ingest(iter(ingest_requests("pets", range(COUNT))))]
        assert sum(each.HasField("ack") for each in responses) == COUNT
        yield stubs


async def fails(call: Any, code: grpc.StatusCode) -> Any:
    """The status of a call that must fail. Any: an aio call."""
    with pytest.raises(aio.AioRpcError) as failed:
        await call
    assert failed.value.code() is code, failed.value.details()
    return status_of(failed.value)
