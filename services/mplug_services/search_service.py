"""SearchService: pictures in, the right ones out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from grpc import aio

from mplug.score_fusion import ScoreFusion
from mplug_api.v1 import generation_pb2
from mplug_api.v1 import search_service_pb2 as pb
from mplug_api.v1.search_service_pb2_grpc import SearchServiceServicer
from mplug_index.types import ScoredPoint
from mplug_services import ingest, wire
from mplug_services.blocking import BlockingPool
from mplug_services.collection_store import CollectionStore
from mplug_services.config import ServeConfig
from mplug_services.embedder import SEARCH_PATIENCE, Embedder, StageSeconds
from mplug_services.errors import ServiceError, error_status, invalid_argument, to_failure
from mplug_services.generation_options import GenerationSettings, read_options
from mplug_services.generator import Generator
from mplug_services.hit_refiner import Hit, RerankedHits, caption_hits, rerank_hits
from mplug_services.image_reader import ImageReader, ImageSource
from mplug_services.kept_pictures import KeptPictures
from mplug_services.model_choice import ModelChoice
from mplug_services.query_parts import Parts, read_parts, take_vectors, text_to_rerank
from mplug_services.rerank_service import stop_time
from mplug_services.reranker import Reranker
from mplug_services.tasks import both
from mplug_services.wire_filter import read_filter

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it

DEFAULT_TOP_K = 10

_KEEP: Mapping[int, ingest.KeepImages | None] = {
    pb.KEEP_IMAGES_UNSPECIFIED: None,
    pb.KEEP_IMAGES_NONE: ingest.KeepImages.NONE,
    pb.KEEP_IMAGES_ORIGINAL: ingest.KeepImages.ORIGINAL,
    pb.KEEP_IMAGES_THUMBNAIL: ingest.KeepImages.THUMBNAIL,
}

_FUSIONS: Mapping[int, ScoreFusion] = {
    pb.SCORE_FUSION_UNSPECIFIED: ScoreFusion.MATCH,
    pb.SCORE_FUSION_MATCH: ScoreFusion.MATCH,
    pb.SCORE_FUSION_SUM: ScoreFusion.SUM,
    pb.SCORE_FUSION_RECIPROCAL_RANK: ScoreFusion.RECIPROCAL_RANK,
}


class SearchService(SearchServiceServicer):
    """The servicer. RPC names are those of the API (N802).

    Args:
        models: where the embedder is, and the reranker and captioner for searches that want them.
        collections: the index and the pictures.
        pool: where the index's calls run.
        reader: reads pictures that are named by uri.
        config: limits.
        draining: set when the server is about to stop: streams then take nothing more.
        pictures: reads the pictures behind hits.
    """

    def __init__(
        self,
        models: ModelChoice,
        collections: CollectionStore,
        pool: BlockingPool,
        reader: ImageReader,
        config: ServeConfig,
        draining: asyncio.Event,
        *,
        pictures: KeptPictures,
    ) -> None:
        self._models = models
        self._collections = collections
        self._pool = pool
        self._reader = reader
        self._config = config
        self._draining = draining
        self._pictures = pictures

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:  # noqa: N802
        """Embed the query's parts, find the nearest points, and refine them as asked."""
        started = time.monotonic()
        deadline = wire.read_deadline(context)
        embedder = await self._models.embedder(request.model)
        parts = read_parts(request.parts, self._config)
        top_k = wire.read_limited(request.top_k, "top_k", DEFAULT_TOP_K, self._config.max_top_k)
        where = read_filter(request.filter) if request.HasField("filter") else None
        wishes = await self._read_wishes(request, parts)
        if parts.texts or parts.images:
            await self._pool.run(self._collections.check_model, request.collection, embedder.model)
        seconds, truncated = await self._embed(embedder, parts, deadline)
        searched = time.monotonic()
        points = await self._pool.run(
            self._collections.database.query,
            request.collection,
            parts.finished(),
            top_k=max(top_k, wishes.rerank_count),
            filter=where,
        )
        seconds = seconds.join(StageSeconds(index=time.monotonic() - searched))
        refined = await self._refine(wishes, points, top_k, deadline)
        return pb.SearchResponse(
            hits=[_write_hit(hit) for hit in refined.hits],
            model=wire.write_model(embedder.model),
            timings=wire.write_timings(seconds.join(refined.seconds), started),
            truncated_parts=truncated,
            reranked_count=refined.reranked_count,
            rerank_model=wire.write_model(wishes.reranker.model) if wishes.reranker else None,
        )

    async def _read_wishes(self, request: pb.SearchRequest, parts: Parts) -> _Wishes:
        if request.score_fusion not in _FUSIONS:
            raise invalid_argument(
                "score_fusion",
                f"{request.score_fusion} is no known ScoreFusion",
                reason="UNKNOWN_SCORE_FUSION",
            )
        wishes = _Wishes(fusion=_FUSIONS[request.score_fusion])
        if request.rerank_top_k:
            wishes.rerank_count = wire.read_limited(
                request.rerank_top_k, "rerank_top_k", 0, self._config.max_batch_size
            )
            wishes.text = text_to_rerank(parts)
            wishes.reranker = await self._models.reranker(request.rerank_model, "rerank_model")
        if request.caption_results:
            wishes.captioner = await self._models.captioner(request.caption_model, "caption_model")
            wishes.caption_settings = read_options(
                generation_pb2.GenerationOptions(),
                wishes.captioner.decoder,
                "caption_results",
                max_sequences=self._config.max_sequences,
            )
        return wishes

    async def _refine(
        self, wishes: _Wishes, points: Sequence[ScoredPoint], top_k: int, deadline: float | None
    ) -> RerankedHits:
        refined = RerankedHits([Hit(point) for point in points], 0, StageSeconds())
        stop_at = stop_time(deadline)
        if wishes.reranker is not None:
            half = stop_at
            if stop_at is not None and wishes.captioner is not None:  # the other half is for captions
                half = (time.monotonic() + stop_at) / 2
            refined = await rerank_hits(
                wishes.reranker,
                wishes.text,
                points,
                count=wishes.rerank_count,
                fusion=wishes.fusion,
                stop_at=half,
            )
        hits = refined.hits[:top_k]
        if wishes.captioner is not None and wishes.caption_settings is not None:
            hits = await caption_hits(
                wishes.captioner, wishes.caption_settings, self._pictures, hits, stop_at=stop_at
            )
        return RerankedHits(hits, refined.reranked_count, refined.seconds)

    async def _embed(
        self, embedder: Embedder, parts: Parts, deadline: float | None
    ) -> tuple[StageSeconds, list[int]]:
        """Give every text and image part its vector; which texts were truncated."""
        images = {place: await self._read_image(source, place) for place, source in parts.images.items()}
        texts, pictures = await both(
            embedder.embed_texts(list(parts.texts.values()), deadline=deadline, patience=SEARCH_PATIENCE),
            embedder.embed_images(list(images.values()), deadline=deadline, patience=SEARCH_PATIENCE),
        )
        take_vectors(parts, list(parts.texts), texts, "text")
        take_vectors(parts, list(images), pictures, "image")
        truncated = [place for place, each in zip(parts.texts, texts.outcomes, strict=True) if each.truncated]
        return texts.seconds.join(pictures.seconds), truncated

    async def _read_image(self, source: ImageSource, place: int) -> bytes:
        try:
            return await self._reader.read(source)
        except Exception as error:
            raise ServiceError(to_failure(error, field=f"parts[{place}].image")) from error

    async def Ingest(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        """Embed a stream of pictures into a collection."""
        first, options = await self._read_options(request_iterator)
        embedder = await self._models.embedder(first.model, "options.model")
        collection = await self._pool.run(
            self._collections.open, options.collection, embedder.model, options.create_if_missing
        )
        started = pb.IngestStarted(collection=collection, model=wire.write_model(embedder.model))
        yield pb.IngestResponse(started=started)
        flow = ingest.IngestFlow(
            embedder, self._collections, self._pool, self._reader, options, self._draining
        )
        async with aclosing(flow.run(_read_items(request_iterator))) as events:
            async for event in events:
                yield _write_event(event)

    async def _read_options(
        self, requests: AsyncIterator[pb.IngestRequest]
    ) -> tuple[pb.IngestOptions, ingest.IngestOptions]:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "options":
            raise invalid_argument("options", "the first message must carry the options", reason="NO_OPTIONS")
        options = first.options
        if options.keep_images not in _KEEP:
            raise invalid_argument(
                "options.keep_images",
                f"{options.keep_images} is no known KeepImages",
                reason="UNKNOWN_KEEP_IMAGES",
            )
        return options, ingest.IngestOptions(
            collection=options.collection,
            create_if_missing=options.create_if_missing,
            keep_images=_KEEP[options.keep_images] or ingest.KeepImages(self._config.keep_images),
            skip_existing=options.skip_existing,
            batch_size=self._config.ingest_batch_size,
            max_in_flight=self._config.ingest_in_flight,
        )


@dataclass(slots=True)
class _Wishes:
    """What is to be done with the hits."""

    fusion: ScoreFusion
    rerank_count: int = 0
    text: str = ""
    reranker: Reranker | None = None
    captioner: Generator | None = None
    caption_settings: GenerationSettings | None = None


def _write_hit(hit: Hit) -> pb.SearchHit:
    return pb.SearchHit(
        id=hit.point.point.id,
        score=hit.point.score,
        payload=wire.write_payload(hit.point.point.payload),
        match_probability=hit.match_probability,
        caption=hit.caption,
    )


async def _read_items(
    requests: AsyncIterator[pb.IngestRequest],
) -> AsyncIterator[ingest.IngestItem | ingest.ItemFailed]:
    async for request in requests:
        if request.WhichOneof("message") != "item":
            raise invalid_argument(
                "item", "after the first message, each must carry an item", reason="NO_ITEM"
            )
        item = request.item
        try:
            yield ingest.IngestItem(
                item.id, wire.read_image(item.image, "image"), wire.read_payload(item.payload, "payload")
            )
        except ServiceError as error:
            yield ingest.ItemFailed(item.id, error)


def _write_event(event: ingest.Event) -> pb.IngestResponse:
    if isinstance(event, ingest.Acknowledged):
        ack = pb.IngestAck(id=event.id, sequence_number=event.sequence_number, skipped=event.skipped)
        return pb.IngestResponse(ack=ack)
    if isinstance(event, ingest.Backoff):
        return pb.IngestResponse(backoff=pb.Backoff(delay=wire.write_duration(event.seconds)))
    return pb.IngestResponse(error=pb.IngestError(id=event.id, error=error_status(event.error)))
