"""Flows over EmbeddingService: batches of any length, split by the server's limits, one outcome an item."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from mplug_api.v1 import common_pb2
from mplug_api.v1.embedding_service_pb2 import (
    EmbedImagesRequest,
    EmbedImagesResponse,
    EmbedResult,
    EmbedTextsRequest,
    EmbedTextsResponse,
)
from mplug_services.client.batches import readable
from mplug_services.client.calls import Flow, ask, chunks
from mplug_services.client.errors import ClientError, from_status
from mplug_services.client.model_flows import LimitsCache
from mplug_services.client.types import EmbedOutcome, ImageSource, Limits
from mplug_services.client.wire import image_to_wire, vector_from_wire

ItemT = TypeVar("ItemT", common_pb2.ImageInput, str)


def embed_images(images: Sequence[ImageSource], model: str, cache: LimitsCache) -> Flow[list[EmbedOutcome]]:
    """Embeds pictures; files are read chunk by chunk, one that cannot be read has an error as its outcome."""

    def send(chunk: list[common_pb2.ImageInput]) -> Flow[Sequence[EmbedResult]]:
        request = EmbedImagesRequest(images=chunk, model=model)
        return (yield from ask("EmbeddingService", "EmbedImages", request, EmbedImagesResponse)).results

    limits = yield from cache.get()
    refused: list[EmbedOutcome] = []

    def refuse(index: int, error: ClientError) -> None:
        refused.append(EmbedOutcome(index, error=error))

    items = readable(images, image_to_wire, limits, refuse)
    answered = yield from _embed(items, lambda image: image.ByteSize(), limits, send)
    return sorted([*answered, *refused], key=lambda outcome: outcome.index)


def embed_texts(texts: Sequence[str], model: str, cache: LimitsCache) -> Flow[list[EmbedOutcome]]:
    """Embeds texts."""

    def send(chunk: list[str]) -> Flow[Sequence[EmbedResult]]:
        request = EmbedTextsRequest(texts=chunk, model=model)
        return (yield from ask("EmbeddingService", "EmbedTexts", request, EmbedTextsResponse)).results

    limits = yield from cache.get()
    # A code point takes at most four bytes of UTF-8.
    return (yield from _embed(enumerate(texts), lambda text: 4 * len(text), limits, send))


def _embed(
    items: Iterable[tuple[int, ItemT]],
    size: Callable[[ItemT], int],
    limits: Limits,
    send: Callable[[list[ItemT]], Flow[Sequence[EmbedResult]]],
) -> Flow[list[EmbedOutcome]]:
    outcomes = []
    for chunk in chunks(items, lambda item: size(item[1]), limits):
        results = yield from send([item for _, item in chunk])
        outcomes += [replace(_outcome(result), index=chunk[result.index][0]) for result in results]
    return outcomes


def _outcome(result: EmbedResult) -> EmbedOutcome:
    if result.HasField("error"):
        return EmbedOutcome(result.index, error=from_status(result.error))
    vector = vector_from_wire(result.embedding.vector)
    return EmbedOutcome(result.index, vector=vector, truncated=result.embedding.truncated)
