"""The client for plain, blocking code."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.message import Message

from mplug_api.v1 import search_service_pb2
from mplug_index.filters import Filter
from mplug_index.types import CollectionInfo, Metric, Point, ScoredPoint
from mplug_services.client import embedding_flows, index_flows, model_flows, search_flows, transport
from mplug_services.client.calls import Call, Flow, T, step
from mplug_services.client.errors import from_rpc_error
from mplug_services.client.ingest import IngestSession, Pause, Step, StreamBroken, ended_early
from mplug_services.client.retry import DEFAULT_RETRY, Attempts, RetryPolicy
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


class Client:
    """Talks to one server; safe to use from several threads.

    Every method takes a `timeout` in seconds, for each request that it makes, retries included;
    without one the client's own holds. Methods raise a `ClientError` when a request fails as a whole;
    what is wrong with one item of a batch is in that item's outcome.
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
        options = transport.channel_options(tls)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, transport.credentials(tls), options)
        self._timeout = timeout
        self._retry = retry
        self._metadata = transport.headers(metadata)
        self._limits = model_flows.LimitsCache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls under way fail."""
        self._channel.close()

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is and holds."""
        return self._run(model_flows.server_info(), timeout)

    def embed_images(
        self, images: Sequence[ImageSource], *, timeout: float | None = None
    ) -> list[EmbedOutcome]:
        """Embeds pictures, any number of them: one outcome each, in order."""
        return self._run(embedding_flows.embed_images(images, self._limits), timeout)

    def embed_texts(self, texts: Sequence[str], *, timeout: float | None = None) -> list[EmbedOutcome]:
        """Embeds texts, any number of them: one outcome each, in order."""
        return self._run(embedding_flows.embed_texts(texts, self._limits), timeout)

    def search(
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
        timeout: float | None = None,
    ) -> SearchResult:
        """Finds the pictures nearest to everything given, added up; `parts` carry weights."""
        flow = search_flows.search(
            collection,
            text=text,
            image=image,
            vector=vector,
            stored_id=stored_id,
            parts=parts,
            filter=filter,
            top_k=top_k,
        )
        return self._run(flow, timeout)

    def ingest(
        self,
        collection: str,
        items: Iterable[IngestItem],
        *,
        create: bool = True,
        keep_images: KeepImages = KeepImages.SERVER_DEFAULT,
        skip_existing: bool = True,
        window: int = 64,
    ) -> Iterator[IngestOutcome]:
        """Adds pictures to a collection: one outcome each, as they come, not always in order.

        Items are taken as outcomes are read, at most `window` ahead; an outcome without an error means
        that the picture is durable and searchable. A broken stream is taken up again.
        """
        session = IngestSession(
            collection, create=create, keep_images=keep_images, skip_existing=skip_existing, window=window
        )
        return self._ingest(session, iter(items))

    def create_collection(
        self,
        name: str,
        dimension: int,
        *,
        metric: Metric = Metric.COSINE,
        fingerprint: str = "",
        timeout: float | None = None,
    ) -> CollectionInfo:
        """Makes an empty collection for vectors (dimension,)."""
        return self._run(index_flows.create_collection(name, dimension, metric, fingerprint), timeout)

    def get_collection(self, name: str, *, timeout: float | None = None) -> CollectionInfo:
        """Describes a collection."""
        return self._run(index_flows.get_collection(name), timeout)

    def list_collections(self, *, timeout: float | None = None) -> list[CollectionInfo]:
        """Describes all collections."""
        return self._run(index_flows.list_collections(), timeout)

    def delete_collection(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a collection and everything in it."""
        self._run(index_flows.delete_collection(name), timeout)

    def set_alias(self, alias: str, collection: str, *, timeout: float | None = None) -> None:
        """Points an alias at a collection, in one step from wherever it pointed before."""
        self._run(index_flows.set_alias(alias, collection), timeout)

    def delete_alias(self, alias: str, *, timeout: float | None = None) -> None:
        """Removes an alias; its collection stays."""
        self._run(index_flows.delete_alias(alias), timeout)

    def upsert(
        self,
        collection: str,
        points: Sequence[Point],
        *,
        fingerprint: str = "",
        timeout: float | None = None,
    ) -> list[UpsertOutcome]:
        """Inserts or replaces points, any number of them: one outcome each, in order."""
        return self._run(index_flows.upsert(collection, points, fingerprint, self._limits), timeout)

    def delete(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        timeout: float | None = None,
    ) -> int:
        """Deletes points by ids, by filter or by both; returns how many were there."""
        return self._run(index_flows.delete(collection, ids, filter, self._limits), timeout)

    def get(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> tuple[list[Point], list[str]]:
        """Reads points by id; the second list names the ids that are not there."""
        return self._run(index_flows.get(collection, ids, with_vector, self._limits), timeout)

    def count(self, collection: str, *, filter: Filter | None = None, timeout: float | None = None) -> int:
        """Counts the points that satisfy a filter, or all."""
        return self._run(index_flows.count(collection, filter), timeout)

    def scroll(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        page_size: int = 100,
        with_vector: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Point]:
        """Walks all points that satisfy a filter in a stable order, page by page."""
        token = ""
        while True:
            page = index_flows.scroll_page(collection, filter, page_size, token, with_vector)
            points, token = self._run(page, timeout)
            yield from points
            if not token:
                return

    def query(
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
        return self._run(flow, timeout)

    def _run(self, flow: Flow[T], timeout: float | None) -> T:
        state = step(flow, None)
        while isinstance(state, Call):
            state = step(flow, self._send(state, self._timeout if timeout is None else timeout))
        return state.value

    def _send(self, call: Call, timeout: float | None) -> Message:
        attempts = Attempts(self._retry, timeout)
        send = self._channel.unary_unary(
            call.path,
            request_serializer=transport.serialize,
            response_deserializer=call.response_type.FromString,
        )
        while True:
            try:
                response: Message = send(call.request, timeout=attempts.remaining(), metadata=self._metadata)
            except grpc.RpcError as error:
                time.sleep(attempts.delay_after(from_rpc_error(error)))
            else:
                return response

    def _ingest(self, session: IngestSession, items: Iterator[IngestItem]) -> Iterator[IngestOutcome]:
        attempts = Attempts(self._retry, timeout=None)
        while True:
            try:
                for outcome in self._ingest_stream(session, items):
                    attempts.reset()
                    yield outcome
            except StreamBroken as broken:
                time.sleep(attempts.delay_after(broken.error))
            else:
                return

    def _ingest_stream(self, session: IngestSession, items: Iterator[IngestItem]) -> Iterator[IngestOutcome]:
        requests: SimpleQueue[search_service_pb2.IngestRequest | None] = SimpleQueue()
        open_stream = self._channel.stream_stream(
            transport.INGEST_PATH,
            request_serializer=transport.serialize,
            response_deserializer=search_service_pb2.IngestResponse.FromString,
        )
        requests.put(session.open())
        # gRPC reads the requests in a thread of its own; the items are taken in the caller's.
        stream = open_stream(iter(requests.get, None), metadata=self._metadata)
        try:
            while (action := session.next_action()) is not Step.FINISH:
                match action:
                    case IngestOutcome():
                        yield action
                    case Pause():
                        time.sleep(action.seconds)
                    case Step.TAKE:
                        session.offer(next(items, None))
                    case Step.RECEIVE:
                        session.accept(_receive(stream) or ended_early())
                    case _:
                        requests.put(action)
            requests.put(None)
            while (response := _receive(stream)) is not None:
                session.accept(response)
        finally:
            requests.put(None)
            stream.cancel()


def _receive(stream: Iterator[search_service_pb2.IngestResponse]) -> search_service_pb2.IngestResponse | None:
    try:
        return next(stream, None)
    except grpc.RpcError as error:
        raise StreamBroken(from_rpc_error(error)) from error
