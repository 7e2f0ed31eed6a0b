"""A connection of the client for asyncio code: it drives flows, streams and ingests, with retries."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing

import grpc
from google.protobuf.message import Message

from mplug_api.v1 import search_service_pb2
from mplug_services.client import transport
from mplug_services.client.calls import Call, Flow, T, Upload, step
from mplug_services.client.errors import ClientError, UnavailableError, from_rpc_error
from mplug_services.client.ingest import IngestSession, Pause, Step, StreamBroken, ended_early
from mplug_services.client.retry import Attempts, RetryPolicy
from mplug_services.client.types import IngestItem, IngestOutcome, TlsOptions


class AsyncConnection:
    """A channel with the client's headers, timeout and retries, for the event loop that it was made in."""

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
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            self._channel = grpc.aio.secure_channel(address, transport.credentials(tls), options)
        self._timeout = timeout
        self._retry = retry
        self._metadata = transport.headers(metadata)

    async def close(self) -> None:
        """Ends the channel; calls under way fail."""
        await self._channel.close()

    async def run(self, flow: Flow[T], timeout: float | None) -> T:
        """Makes a flow's calls, each within the timeout; None: the client's own."""
        # Flows read the files that the caller names, which is no work for the event loop.
        state = await asyncio.to_thread(step, flow, None)
        while isinstance(state, Call):
            response = await self._send(state, self._timeout if timeout is None else timeout)
            state = await asyncio.to_thread(step, flow, response)
        return state.value

    async def _send(self, call: Call, timeout: float | None) -> Message:
        attempts = Attempts(self._retry, timeout)
        send = self._channel.unary_unary(
            call.path,
            request_serializer=transport.serialize,
            response_deserializer=call.response_type.FromString,
        )
        while True:
            try:
                response: Message = await send(
                    call.request, timeout=attempts.remaining(), metadata=self._metadata
                )
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.delay_after(from_rpc_error(error)))
            else:
                return response

    async def stream(self, call: Call, timeout: float | None) -> AsyncGenerator[Message, None]:
        """Messages of a server's stream; it is tried again only while it has said nothing."""
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        while True:
            begun = False
            try:
                async with aclosing(self._messages(call, attempts.remaining())) as messages:
                    async for message in messages:
                        begun = True
                        yield message
            except ClientError as failure:
                if begun:
                    raise
                await asyncio.sleep(attempts.delay_after(failure))
            else:
                return

    async def watch(self, call: Call) -> AsyncGenerator[Message, None]:
        """Messages of a stream that lasts as long as what it tells of; where it breaks it is taken up again."""
        attempts = Attempts(self._retry, timeout=None)
        while True:
            try:
                async with aclosing(self._messages(call, timeout=None)) as messages:
                    async for message in messages:
                        attempts.reset()
                        yield message
            except ClientError as failure:
                await asyncio.sleep(attempts.delay_after(failure))
            else:
                return

    async def _messages(self, call: Call, timeout: float | None) -> AsyncGenerator[Message, None]:
        open_stream = self._channel.unary_stream(
            call.path,
            request_serializer=transport.serialize,
            response_deserializer=call.response_type.FromString,
        )
        stream = open_stream(call.request, timeout=timeout, metadata=self._metadata)
        try:
            async for message in stream:
                yield message
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            # A reader who leaves early stops the server's work.
            stream.cancel()

    async def upload(self, upload: Upload) -> Message:
        """The answer to a stream of messages, which is sent again where the server could not be reached."""
        attempts = Attempts(self._retry, timeout=None)
        send = self._channel.stream_unary(
            upload.path,
            request_serializer=transport.serialize,
            response_deserializer=upload.response_type.FromString,
        )
        while True:
            try:
                response: Message = await send(_in_thread(upload.requests()), metadata=self._metadata)
            except asyncio.CancelledError:
                # gRPC cancels a call whose messages cannot be made.
                if upload.broken is not None:
                    raise upload.broken from None
                raise
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.delay_after(upload.failure(from_rpc_error(error))))
            else:
                return response

    async def ingest(
        self, session: IngestSession, source: Iterable[IngestItem] | AsyncIterable[IngestItem]
    ) -> AsyncIterator[IngestOutcome]:
        """Runs an ingest to its end, taking broken streams up again."""
        items = _take(source)
        attempts = Attempts(self._retry, timeout=None)
        while True:
            try:
                async for outcome in self._ingest_stream(session, items):
                    attempts.reset()
                    yield outcome
            except StreamBroken as broken:
                await asyncio.sleep(attempts.delay_after(broken.error))
            else:
                return

    async def _ingest_stream(
        self, session: IngestSession, items: AsyncIterator[IngestItem]
    ) -> AsyncIterator[IngestOutcome]:
        open_stream = self._channel.stream_stream(
            transport.INGEST_PATH,
            request_serializer=transport.serialize,
            response_deserializer=search_service_pb2.IngestResponse.FromString,
        )
        stream = open_stream(metadata=self._metadata)
        try:
            await _write(stream, session.open())
            while (action := session.next_action()) is not Step.FINISH:
                match action:
                    case IngestOutcome():
                        yield action
                    case Pause():
                        await asyncio.sleep(action.seconds)
                    case Step.TAKE:
                        await asyncio.to_thread(session.offer, await anext(items, None))
                    case Step.RECEIVE:
                        session.accept(await _receive(stream) or ended_early())
                    case _:
                        await _write(stream, action)
            await stream.done_writing()
            while (response := await _receive(stream)) is not None:
                session.accept(response)
        finally:
            stream.cancel()


async def _in_thread(messages: Iterator[Message]) -> AsyncIterator[Message]:
    """Messages, each made off the event loop: files are read for them."""
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


async def _take(items: Iterable[IngestItem] | AsyncIterable[IngestItem]) -> AsyncIterator[IngestItem]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _write(
    stream: "grpc.aio.StreamStreamCall[Message, search_service_pb2.IngestResponse]",
    request: search_service_pb2.IngestRequest,
) -> None:
    try:
        await stream.write(request)
    except (grpc.RpcError, asyncio.InvalidStateError) as error:
        # A write on a broken stream is reported as INTERNAL, whatever the server said.
        raise StreamBroken(UnavailableError("the connection broke while a picture was sent")) from error


async def _receive(
    stream: "grpc.aio.StreamStreamCall[Message, search_service_pb2.IngestResponse]",
) -> search_service_pb2.IngestResponse | None:
    try:
        response = await stream.read()
    except grpc.RpcError as error:
        raise StreamBroken(from_rpc_error(error)) from error
    return response if isinstance(response, search_service_pb2.IngestResponse) else None
