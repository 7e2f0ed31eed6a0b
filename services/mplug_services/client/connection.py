"""A connection of the client for blocking code: it drives flows, streams and ingests, with retries."""

import time
from collections.abc import Iterator, Mapping
from queue import SimpleQueue

import grpc
from google.protobuf.message import Message

from mplug_api.v1 import search_service_pb2
from mplug_services.client import transport
from mplug_services.client.calls import Call, Flow, T, Upload, step
from mplug_services.client.errors import ClientError, from_rpc_error
from mplug_services.client.ingest import IngestSession, Pause, Step, StreamBroken, ended_early
from mplug_services.client.retry import Attempts, RetryPolicy
from mplug_services.client.types import IngestItem, IngestOutcome, TlsOptions


class Connection:
    """A channel with the client's headers, timeout and retries; safe to use from several threads."""

    def __init__(
        self,
        address: str,
        tls: TlsOptions | None,
        timeout: float | None,
        retry: RetryPolicy,
        metadata: Mapping[str, str] | None,
    ) -> None:
        options = transport.channel_options(tls)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, transport.credentials(tls), options)
        self._timeout = timeout
        self._retry = retry
        self._metadata = transport.headers(metadata)

    def close(self) -> None:
        """Ends the channel; calls under way fail."""
        self._channel.close()

    def run(self, flow: Flow[T], timeout: float | None) -> T:
        """Makes a flow's calls, each within the timeout; None: the client's own."""
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

    def stream(self, call: Call, timeout: float | None) -> Iterator[Message]:
        """Messages of a server's stream; it is tried again only while it has said nothing."""
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        while True:
            begun = False
            try:
                for message in self._messages(call, attempts.remaining()):
                    begun = True
                    yield message
            except ClientError as failure:
                if begun:
                    raise
                time.sleep(attempts.delay_after(failure))
            else:
                return

    def watch(self, call: Call) -> Iterator[Message]:
        """Messages of a stream that lasts as long as what it tells of; where it breaks it is taken up again."""
        attempts = Attempts(self._retry, timeout=None)
        while True:
            try:
                for message in self._messages(call, timeout=None):
                    attempts.reset()
                    yield message
            except ClientError as failure:
                time.sleep(attempts.delay_after(failure))
            else:
                return

    def _messages(self, call: Call, timeout: float | None) -> Iterator[Message]:
        open_stream = self._channel.unary_stream(
            call.path,
            request_serializer=transport.serialize,
            response_deserializer=call.response_type.FromString,
        )
        stream = open_stream(call.request, timeout=timeout, metadata=self._metadata)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            # A reader who leaves early stops the server's work.
            stream.cancel()

    def upload(self, upload: Upload) -> Message:
        """The answer to a stream of messages, which is sent again where the server could not be reached."""
        attempts = Attempts(self._retry, timeout=None)
        send = self._channel.stream_unary(
            upload.path,
            request_serializer=transport.serialize,
            response_deserializer=upload.response_type.FromString,
        )
        while True:
            try:
                response: Message = send(upload.requests(), metadata=self._metadata)
            except grpc.RpcError as error:
                time.sleep(attempts.delay_after(upload.failure(from_rpc_error(error))))
            else:
                return response

    def ingest(self, session: IngestSession, items: Iterator[IngestItem]) -> Iterator[IngestOutcome]:
        """Runs an ingest to its end, taking broken streams up again."""
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
