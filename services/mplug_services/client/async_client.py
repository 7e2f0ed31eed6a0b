"""The client for asyncio code: the same methods as Client, awaitable."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

from mplug_api.v1.caption_service_pb2 import StreamCaptionResponse
from mplug_api.v1.vqa_service_pb2 import StreamAnswerResponse
from mplug_index.filters import Filter
from mplug_index.types import CollectionInfo, Metric, Point, ScoredPoint
from mplug_services.client import (
    caption_flows,
    embedding_flows,
    index_flows,
    model_flows,
    rerank_flows,
    search_flows,
    transport,
    vqa_flows,
)
from mplug_services.client.async_connection import AsyncConnection
from mplug_services.client.async_jobs import AsyncJobs
from mplug_services.client.async_text_calls import AsyncTextCalls
from mplug_services.client.generation_types import (
    ExplainOptions,
    GenerationOptions,
    Question,
    RankOutcome,
    RerankResult,
    ScoreFusion,
    TextOutcome,
    TextProgress,
)
from mplug_services.client.generation_wire import progress_from_wire
from mplug_services.client.ingest import IngestSession
from mplug_services.client.retry import DEFAULT_RETRY, RetryPolicy
from mplug_services.client.types import (
    EmbedOutcome,
    FloatVector,
    ImageSource,
    IngestItem,
    IngestOutcome,
    KeepImages,
    Part,
    SearchResult,
    ServerInfo,
    TlsOptions,
    UpsertOutcome,
)


class AsyncClient(AsyncTextCalls):
    """Talks to one server, from the event loop that it was made in.

    Every method takes a `timeout` in seconds, for each request that it makes, retries included;
    without one the client's own holds. Methods raise a `ClientError` when a request fails as a whole;
    what is wrong with one item of a batch is in that item's outcome. Where a `model` is taken, it is the name of one
    that a job has trained (see `jobs`); without one the server's own answers.
    """

    def __init__(
        self,
        address: str = transport.DEFAULT_ADDRESS,
        *,
        tls: TlsOptions | None = None,
        timeout: float | None = transport.DEFAULT_TIMEOUT,
        retry: RetryPolicy = DEFAULT_RETRY,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = AsyncConnection(address, tls, timeout, retry, metadata)
        self._limits = model_flows.LimitsCache()
        self.jobs = AsyncJobs(self._connection)
        """Long work: training, on this client's data or the server's."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls under way fail."""
        await self._connection.close()

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is and holds."""
        return await self._connection.run(model_flows.server_info(), timeout)

    async def embed_images(
        self, images: Sequence[ImageSource], *, model: str = "", timeout: float | None = None
    ) -> list[EmbedOutcome]:
        """Embeds pictures, any number of them: one outcome each, in order."""
        return await self._connection.run(embedding_flows.embed_images(images, model, self._limits), timeout)

    async def embed_texts(
        self, texts: Sequence[str], *, model: str = "", timeout: float | None = None
    ) -> list[EmbedOutcome]:
        """Embeds texts, any number of them: one outcome each, in order."""
        return await self._connection.run(embedding_flows.embed_texts(texts, model, self._limits), timeout)

    async def search(
        self,
        collection: str,
        *,
        text: str | None = None,
        image: ImageSource | None = None,
        vector: FloatVector | None = None,
        stored_id: str | None = None,
        parts: Sequence[Part] = (),
        filter: Filter | None = None,
        top_k: int = 10,
        rerank_top_k: int = 0,
        score_fusion: ScoreFusion = ScoreFusion.SERVER_DEFAULT,
        caption_results: bool = False,
        model: str = "",
        rerank_model: str = "",
        caption_model: str = "",
        timeout: float | None = None,
    ) -> SearchResult:
        """Finds the pictures nearest to everything given, added up; `parts` carry weights.

        The `rerank_top_k` best are looked at again together with the query's one text, and ordered by
        `score_fusion`; that stops when the timeout is near and fails no search.
        """
        flow = search_flows.search(
            collection,
            text=text,
            image=image,
            vector=vector,
            stored_id=stored_id,
            parts=parts,
            filter=filter,
            top_k=top_k,
            rerank_top_k=rerank_top_k,
            score_fusion=score_fusion,
            caption_results=caption_results,
            model=model,
            rerank_model=rerank_model,
            caption_model=caption_model,
        )
        return await self._connection.run(flow, timeout)

    async def caption(
        self,
        images: Sequence[ImageSource],
        *,
        prompt: str = "",
        options: GenerationOptions | None = None,
        explain: ExplainOptions | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> list[TextOutcome]:
        """Captions pictures, any number of them: one outcome each, in order. Captions begin with the prompt.

        With `explain`, outcomes have a heat map for each word; the timeout then holds for these as well.
        """
        return await self._connection.run(
            caption_flows.caption(images, prompt, options, explain, model, self._limits), timeout
        )

    async def stream_caption(
        self,
        image: ImageSource,
        *,
        prompt: str = "",
        options: GenerationOptions | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> AsyncGenerator[TextProgress, None]:
        """Captions one picture while it is watched; closing the generator early stops the server's work."""
        call = await asyncio.to_thread(caption_flows.stream_caption, image, prompt, options, model)
        async with aclosing(self._connection.stream(call, timeout)) as messages:
            async for message in messages:
                assert isinstance(message, StreamCaptionResponse)
                yield progress_from_wire(message.progress)

    async def answer(
        self,
        questions: Sequence[Question],
        *,
        options: GenerationOptions | None = None,
        explain: ExplainOptions | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> list[TextOutcome]:
        """Answers questions about pictures, any number: one outcome each, in order; `explain` as in `caption`."""
        return await self._connection.run(
            vqa_flows.answer(questions, options, explain, model, self._limits), timeout
        )

    async def rank_answers(
        self,
        questions: Sequence[Question],
        answers: Sequence[str],
        *,
        k: int | None = None,
        explain: ExplainOptions | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> list[RankOutcome]:
        """Orders a list of answers for each question; the k whose first token is likeliest are scored in full."""
        return await self._connection.run(
            vqa_flows.rank_answers(questions, answers, k, explain, model, self._limits), timeout
        )

    async def stream_answer(
        self,
        image: ImageSource,
        question: str,
        *,
        options: GenerationOptions | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> AsyncGenerator[TextProgress, None]:
        """Answers one question while it is watched; closing the generator early stops the server's work."""
        call = await asyncio.to_thread(vqa_flows.stream_answer, image, question, options, model)
        async with aclosing(self._connection.stream(call, timeout)) as messages:
            async for message in messages:
                assert isinstance(message, StreamAnswerResponse)
                yield progress_from_wire(message.progress)

    async def rerank(
        self,
        text: str,
        candidates: Sequence[str | ImageSource],
        *,
        collection: str = "",
        explain: ExplainOptions | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> RerankResult:
        """Says how well each candidate, an id of the collection or a picture, matches a text.

        Candidates are scored in their order until the timeout is near; those after it have no probability. With
        `explain`, those that are scored have a heat map of the decision, as far as the time allows.
        """
        return await self._connection.run(
            rerank_flows.rerank(text, candidates, collection, explain, model, self._limits), timeout
        )

    def ingest(
        self,
        collection: str,
        items: Iterable[IngestItem] | AsyncIterable[IngestItem],
        *,
        create: bool = True,
        keep_images: KeepImages = KeepImages.SERVER_DEFAULT,
        skip_existing: bool = True,
        window: int = 64,
        model: str = "",
    ) -> AsyncIterator[IngestOutcome]:
        """Adds pictures to a collection: one outcome each, as they come, not always in order.

        Items are taken as outcomes are read, at most `window` ahead; an outcome without an error means
        that the picture is durable and searchable. A broken stream is taken up again.
        """
        session = IngestSession(
            collection,
            create=create,
            keep_images=keep_images,
            skip_existing=skip_existing,
            window=window,
            model=model,
        )
        return self._connection.ingest(session, items)

    async def create_collection(
        self,
        name: str,
        dimension: int,
        *,
        metric: Metric = Metric.COSINE,
        fingerprint: str = "",
        timeout: float | None = None,
    ) -> CollectionInfo:
        """Makes an empty collection for vectors (dimension,)."""
        return await self._connection.run(
            index_flows.create_collection(name, dimension, metric, fingerprint), timeout
        )

    async def get_collection(self, name: str, *, timeout: float | None = None) -> CollectionInfo:
        """Describes a collection."""
        return await self._connection.run(index_flows.get_collection(name), timeout)

    async def list_collections(self, *, timeout: float | None = None) -> list[CollectionInfo]:
        """Describes all collections."""
        return await self._connection.run(index_flows.list_collections(), timeout)

    async def delete_collection(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a collection and everything in it."""
        await self._connection.run(index_flows.delete_collection(name), timeout)

    async def set_alias(self, alias: str, collection: str, *, timeout: float | None = None) -> None:
        """Points an alias at a collection, in one step from wherever it pointed before."""
        await self._connection.run(index_flows.set_alias(alias, collection), timeout)

    async def delete_alias(self, alias: str, *, timeout: float | None = None) -> None:
        """Removes an alias; its collection stays."""
        await self._connection.run(index_flows.delete_alias(alias), timeout)

    async def upsert(
        self,
        collection: str,
        points: Sequence[Point],
        *,
        fingerprint: str = "",
        timeout: float | None = None,
    ) -> list[UpsertOutcome]:
        """Inserts or replaces points, any number of them: one outcome each, in order."""
        return await self._connection.run(
            index_flows.upsert(collection, points, fingerprint, self._limits), timeout
        )

    async def delete(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        timeout: float | None = None,
    ) -> int:
        """Deletes points by ids, by filter or by both; returns how many were there."""
        return await self._connection.run(index_flows.delete(collection, ids, filter, self._limits), timeout)

    async def get(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> tuple[list[Point], list[str]]:
        """Reads points by id; the second list names the ids that are not there."""
        return await self._connection.run(
            index_flows.get(collection, ids, with_vector, self._limits), timeout
        )

    async def count(
        self, collection: str, *, filter: Filter | None = None, timeout: float | None = None
    ) -> int:
        """Counts the points that satisfy a filter, or all."""
        return await self._connection.run(index_flows.count(collection, filter), timeout)

    async def scroll(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        page_size: int = 100,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Point]:
        """Walks all points that satisfy a filter in a stable order, page by page."""
        token = ""
        while True:
            page = index_flows.scroll_page(collection, filter, page_size, token, with_vector)
            points, token = await self._connection.run(page, timeout)
            for point in points:
                yield point
            if not token:
                return

    async def query(
        self,
        collection: str,
        parts: Sequence[Part],
        *,
        filter: Filter | None = None,
        top_k: int = 10,
        with_vector: bool = False,
        fingerprint: str = "",
        timeout: float | None = None,
    ) -> list[ScoredPoint]:
        """The nearest points to a weighted sum of vectors and stored points; no model is asked."""
        flow = index_flows.query(collection, parts, filter, top_k, with_vector, fingerprint)
        return await self._connection.run(flow, timeout)
