"""The flow of an ingest stream: batches of pictures embedded, kept and committed, each picture answered once.

No protobuf here. A picture's place is taken from when it is read until its answer is fetched, and their number is
bounded: a client that does not read its answers, or is faster than the model, is read no further.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from mplug_index.types import PayloadValue, Point, UpsertOutcome
from mplug_services.blocking import BlockingPool
from mplug_services.collection_store import CollectionStore
from mplug_services.embedder import INGEST_PATIENCE, EmbedBatch, Embedder, EmbedOutcome
from mplug_services.errors import invalid_argument, unavailable
from mplug_services.image_reader import ImageReader, ImageSource, ImageUri
from mplug_services.tasks import first_error
from mplug_services.work import QueueFullError

SHA256_KEY = "_sha256"
"""Payload key of the kept picture's name in the PictureStore."""
URI_KEY = "_uri"
"""Payload key of the URI that a picture was read from."""

LINGER_SECONDS = 0.05
"""How long a batch waits for more pictures once it has one."""
BATCHES_AT_ONCE = 2
"""One is embedded while another one commits."""


class KeepImages(StrEnum):
    """What is kept of a picture beside its vector."""

    NONE = "none"
    ORIGINAL = "original"
    THUMBNAIL = "thumbnail"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """The stream's first message, and the server's settings for it."""

    collection: str
    create_if_missing: bool
    keep_images: KeepImages
    skip_existing: bool
    batch_size: int
    """Pictures embedded and committed together."""
    max_in_flight: int
    """Pictures read and not yet answered."""


@dataclass(frozen=True, slots=True)
class IngestItem:
    """One picture on its way in."""

    id: str
    source: ImageSource
    payload: Mapping[str, PayloadValue]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The picture is durable and searchable."""

    id: str
    sequence_number: int = 0
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """The picture did not go in."""

    id: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Backoff:
    """The engine is full; the server tries again by itself after this long."""

    seconds: float


Event: TypeAlias = Acknowledged | ItemFailed | Backoff


class IngestFlow:
    """One stream.

    Args:
        embedder: makes the vectors.
        collections: where they go.
        pool: where blocking calls run.
        reader: reads pictures that are named by uri.
        options: of this stream.
        draining: when set, nothing more is read; what was read is finished.
    """

    def __init__(
        self,
        embedder: Embedder,
        collections: CollectionStore,
        pool: BlockingPool,
        reader: ImageReader,
        options: IngestOptions,
        draining: asyncio.Event,
    ) -> None:
        self._embedder = embedder
        self._collections = collections
        self._pool = pool
        self._reader = reader
        self._options = options
        self._draining = draining
        self._places = asyncio.Semaphore(options.max_in_flight)
        self._items: asyncio.Queue[IngestItem | None] = asyncio.Queue()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._seen: set[str] = set()

    async def run(self, items: AsyncIterator[IngestItem | ItemFailed]) -> AsyncGenerator[Event]:
        """Take all items in; yields one ack or error for each, and back-offs.

        Raises:
            ServiceError: the server is stopping (after the answers to everything that was read), or the stream
                itself is wrong.
            IndexStoreError: the collection is gone, or the storage failed. Unanswered items may or may not be in.
        """
        work = asyncio.create_task(self._work(items))
        # The end of the work ends the loop below, also when it ended by an error.
        work.add_done_callback(lambda _: self._events.put_nowait(None))
        try:
            while (event := await self._events.get()) is not None:
                yield event
                if not isinstance(event, Backoff):
                    self._places.release()
            await work
        finally:
            work.cancel()
            await asyncio.wait([work])

    async def _work(self, items: AsyncIterator[IngestItem | ItemFailed]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(items))
                stopping = group.create_task(self._stop_reading(reading))
                reading.add_done_callback(lambda _: stopping.cancel())
                reading.add_done_callback(lambda _: self._items.put_nowait(None))
                group.create_task(self._run_batches())
        except ExceptionGroup as errors:
            raise first_error(errors) from errors
        if self._draining.is_set() and reading.cancelled():
            raise unavailable(
                "DRAINING", "the server is stopping; send what was not acknowledged again", retry_seconds=1.0
            )

    async def _stop_reading(self, reading: asyncio.Task[None]) -> None:
        await self._draining.wait()
        reading.cancel()

    async def _read(self, items: AsyncIterator[IngestItem | ItemFailed]) -> None:
        while True:
            await self._places.acquire()
            item = await anext(items, None)
            if item is None:
                return
            if isinstance(item, ItemFailed):
                self._events.put_nowait(item)
            elif item.id in self._seen:
                error = invalid_argument(
                    "id",
                    f"{item.id!r} was in this stream before; ids are unique in a stream",
                    reason="DUPLICATE_ID",
                )
                self._events.put_nowait(ItemFailed(item.id, error))
            else:
                self._seen.add(item.id)
                self._items.put_nowait(item)

    async def _run_batches(self) -> None:
        turns = asyncio.Semaphore(BATCHES_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await turns.acquire()
                batch = await self._next_batch()
                if not batch:
                    return
                task = group.create_task(self._take_in(batch))
                task.add_done_callback(lambda _: turns.release())

    async def _next_batch(self) -> list[IngestItem]:
        """The next items, at least one; a batch that does not fill up goes after a short wait. Empty: the end."""
        first = await self._items.get()
        if first is None:
            self._items.put_nowait(None)
            return []
        batch = [first]
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while len(batch) < self._options.batch_size:
                    item = await self._items.get()
                    if item is None:
                        self._items.put_nowait(None)
                        break
                    batch.append(item)
        except TimeoutError:
            pass
        return batch

    async def _take_in(self, batch: Sequence[IngestItem]) -> None:
        if self._options.skip_existing:
            batch = await self._skip_existing(batch)
        data = await self._reader.read_each([item.source for item in batch])
        readable: list[tuple[IngestItem, bytes]] = []
        for item, each in zip(batch, data, strict=True):
            if isinstance(each, bytes):
                readable.append((item, each))
            else:
                self._events.put_nowait(ItemFailed(item.id, each))
        if not readable:
            return
        embedded = await self._embed([each for _, each in readable])
        points: list[Point] = []
        for (item, each), outcome in zip(readable, embedded.outcomes, strict=True):
            if outcome.vector is None:
                assert outcome.error is not None, "an outcome has a vector or an error"
                self._events.put_nowait(ItemFailed(item.id, outcome.error))
            else:
                points.append(Point(item.id, outcome.vector, await self._payload(item, each, outcome)))
        if points:
            self._answer(await self._commit(points))

    async def _skip_existing(self, batch: Sequence[IngestItem]) -> list[IngestItem]:
        database = self._collections.database
        usable = [item for item in batch if _is_id(item.id)]
        existing, _ = await self._pool.run_patiently(
            database.get, self._options.collection, [item.id for item in usable]
        )
        ids = {point.id for point in existing}
        for item in usable:
            if item.id in ids:
                self._events.put_nowait(Acknowledged(item.id, skipped=True))
        return [item for item in batch if item.id not in ids]

    async def _embed(self, data: Sequence[bytes]) -> EmbedBatch:
        """Embed, as often as the engine has no room; the client is told to wait meanwhile."""
        thumbnails = self._options.keep_images is KeepImages.THUMBNAIL
        while True:
            try:
                return await self._embedder.embed_images(
                    data, patience=INGEST_PATIENCE, thumbnails=thumbnails
                )
            except QueueFullError as error:
                self._events.put_nowait(Backoff(error.retry_after))
                await asyncio.sleep(error.retry_after)

    async def _payload(self, item: IngestItem, data: bytes, outcome: EmbedOutcome) -> dict[str, PayloadValue]:
        """The client's payload and where the picture is. It is on disk before its point is."""
        payload = dict(item.payload)
        if isinstance(item.source, ImageUri):
            payload[URI_KEY] = item.source.path
        if self._options.keep_images is KeepImages.ORIGINAL:
            payload[SHA256_KEY] = await self._pool.run_patiently(self._collections.pictures.put, data)
        elif outcome.thumbnail is not None:
            payload[SHA256_KEY] = await self._pool.run_patiently(
                self._collections.pictures.put, outcome.thumbnail
            )
        return payload

    async def _commit(self, points: Sequence[Point]) -> list[UpsertOutcome]:
        return await self._pool.run_patiently(
            self._collections.database.upsert,
            self._options.collection,
            points,
            fingerprint=self._embedder.model.fingerprint,
        )

    def _answer(self, outcomes: Sequence[UpsertOutcome]) -> None:
        for outcome in outcomes:
            if outcome.error is None:
                self._events.put_nowait(Acknowledged(outcome.id, outcome.sequence_number))
            else:
                self._events.put_nowait(ItemFailed(outcome.id, outcome.error))


def _is_id(text: str) -> bool:
    """Whether the index may be asked for it; what it refuses gets its error at the commit."""
    return 0 < len(text.encode()) <= 512
