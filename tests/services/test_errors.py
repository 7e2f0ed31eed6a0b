"""Exceptions to statuses, and the interceptor on all four kinds of RPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc import aio

from mplug.errors import ImageError
from mplug_index import errors as index_errors
from mplug_services.errors import error_status, failed_precondition, invalid_argument, to_failure, unavailable
from mplug_services.interceptor import ErrorInterceptor, RpcCounter
from mplug_services.work import DeadlineExceededError, EngineStoppedError, NonFiniteError, QueueFullError
from services.serving import detail, fields_of, reason_of, retry_seconds_of, status_of

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (invalid_argument("top_k", "too large"), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (failed_precondition("NO_IMAGE_ROOT", "none"), Code.FAILED_PRECONDITION, "NO_IMAGE_ROOT"),
        (unavailable("DRAINING", "stopping"), Code.UNAVAILABLE, "DRAINING"),
        (ImageError("TRUNCATED", "cut short"), Code.INVALID_ARGUMENT, "IMAGE_TRUNCATED"),
        (QueueFullError("full", 1.5), Code.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (DeadlineExceededError("late"), Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (EngineStoppedError("stop"), Code.UNAVAILABLE, "ENGINE_STOPPED"),
        (NonFiniteError("nan"), Code.INTERNAL, "NON_FINITE"),
        (index_errors.CollectionNotFoundError("none"), Code.NOT_FOUND, "COLLECTION_NOT_FOUND"),
        (index_errors.CollectionExistsError("there"), Code.ALREADY_EXISTS, "COLLECTION_EXISTS"),
        (index_errors.PointNotFoundError("none"), Code.NOT_FOUND, "POINT_NOT_FOUND"),
        (index_errors.FingerprintMismatchError("other"), Code.FAILED_PRECONDITION, "FINGERPRINT_MISMATCH"),
        (index_errors.DuplicateIdError(["a"]), Code.INVALID_ARGUMENT, "DUPLICATE_IDS"),
        (index_errors.InvalidVectorError("nan"), Code.INVALID_ARGUMENT, "INVALID_VECTOR"),
        (index_errors.PictureAccessError("out"), Code.PERMISSION_DENIED, "PICTURE_ACCESS_DENIED"),
        (index_errors.StorageError("/data/index.sqlite is ill"), Code.INTERNAL, "INTERNAL"),
        (KeyError("/etc/passwd"), Code.INTERNAL, "INTERNAL"),
    ],
)
def test_every_error_has_its_code_and_reason(error: Exception, code: Code, reason: str) -> None:
    status = error_status(error)
    assert status.code == code.value[0]
    assert reason_of(status) == reason
    assert status.message


def test_every_error_of_the_index_is_foreseen() -> None:
    ours = {
        kind
        for kind in vars(index_errors).values()
        if isinstance(kind, type)
        and issubclass(kind, index_errors.IndexStoreError)
        and not issubclass(kind, index_errors.StorageError)
    } - {index_errors.IndexStoreError, index_errors.DuplicateIdError}
    assert len(ours) > 10
    for kind in ours:
        assert to_failure(kind("wrong")).code is not Code.INTERNAL, kind


def test_the_field_is_named() -> None:
    assert fields_of(error_status(invalid_argument("parts[1].text", "empty"))) == ["parts[1].text"]
    assert fields_of(error_status(ImageError("EMPTY", "0 bytes"), field="images[3]")) == ["images[3]"]
    mismatch = index_errors.DimensionMismatchError("3, not 4", field="vector")
    assert fields_of(error_status(mismatch)) == ["vector"]
    assert fields_of(error_status(mismatch, field="points[2].vector")) == ["points[2].vector"]


def test_duplicate_ids_are_listed() -> None:
    info = detail(error_status(index_errors.DuplicateIdError(["a", "b"])), ErrorInfo)
    assert info.metadata["ids"] == "a, b"


def test_an_overload_says_when_to_come_again() -> None:
    assert retry_seconds_of(error_status(QueueFullError("full", 1.5))) == 1.5


def test_unforeseen_errors_leak_nothing_and_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("cannot open /etc/keys/secret.pem")
    except RuntimeError as error:
        status = error_status(error)
    number = detail(status, ErrorInfo).metadata["error_id"]
    assert "secret" not in str(status)
    assert number in status.message
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert number in logged[0].getMessage()
    assert logged[0].exc_info is not None


def echo(request: bytes) -> bytes:
    if request == b"bad":
        raise invalid_argument("request", "it is bad")
    if request == b"crash":
        raise ZeroDivisionError("at /srv/code.py")
    return request


async def unary_unary(request: bytes, context: Any) -> bytes:
    return echo(request)


async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    yield echo(request)


async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([echo(request) async for request in requests])


async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield echo(request)


async def written(request: bytes, context: Any) -> None:
    """A stream by context.write, as the health service has it."""
    await context.write(b"first")
    await context.write(echo(request))


async def aborting(request: bytes, context: Any) -> bytes:
    await context.abort(Code.DATA_LOSS, "by its own")
    return b""


HANDLERS: dict[str, Any] = {
    "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary),
    "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream),
    "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary),
    "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream),
    "Written": grpc.unary_stream_rpc_method_handler(written),
    "Aborting": grpc.unary_unary_rpc_method_handler(aborting),
}


# Any: the stubs type a call by its serializers, and raw bytes have none.
async def call(channel: Any, method: str, request: bytes) -> list[bytes]:
    path = f"/test.Echo/{method}"
    if method in ("UnaryUnary", "Aborting", "Missing"):
        return [await channel.unary_unary(path)(request)]
    if method in ("UnaryStream", "Written"):
        return [each async for each in channel.unary_stream(path)(request)]
    if method == "StreamUnary":
        return [await channel.stream_unary(path)(iter([request]))]
    return [each async for each in channel.stream_stream(path)(iter([request]))]


async def with_echo(
    body: Callable[[aio.Channel, RpcCounter], Awaitable[None]], extra: dict[str, Any] | None = None
) -> None:
    counter = RpcCounter()
    server = aio.server(interceptors=[ErrorInterceptor(counter)])
    handlers = {**HANDLERS, **(extra or {})}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await body(channel, counter)
    finally:
        await server.stop(0)


@pytest.mark.parametrize("method", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream", "Written"])
async def test_all_kinds_of_rpc_are_covered(method: str) -> None:
    async def body(channel: aio.Channel, counter: RpcCounter) -> None:
        assert (await call(channel, method, b"hello"))[-1] == b"hello"
        for request, code, reason in (
            (b"bad", Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
            (b"crash", Code.INTERNAL, "INTERNAL"),
        ):
            with pytest.raises(aio.AioRpcError) as failed:
                await call(channel, method, request)
            assert failed.value.code() is code
            assert reason_of(status_of(failed.value)) == reason
            assert "code.py" not in (failed.value.details() or "")
        await asyncio.wait_for(counter.wait_idle(), 10)
        assert counter.count == 0

    await with_echo(body)


@pytest.mark.parametrize("method", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream", "Written"])
async def test_a_closed_counter_lets_none_begin_and_says_why(method: str) -> None:
    async def body(channel: aio.Channel, counter: RpcCounter) -> None:
        counter.close()
        with pytest.raises(aio.AioRpcError) as refused:
            await call(channel, method, b"hello")
        assert refused.value.code() is Code.UNAVAILABLE
        assert reason_of(status_of(refused.value)) == "SERVER_STOPPING"
        assert counter.count == 0

    await with_echo(body)


async def test_aborts_and_unknown_methods_pass() -> None:
    async def body(channel: aio.Channel, counter: RpcCounter) -> None:
        for method, code in (("Aborting", Code.DATA_LOSS), ("Missing", Code.UNIMPLEMENTED)):
            with pytest.raises(aio.AioRpcError) as failed:
                await call(channel, method, b"")
            assert failed.value.code() is code

    await with_echo(body)


async def test_a_cancelled_rpc_is_cancelled_in_its_handler() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: bytes, context: Any) -> bytes:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    async def body(channel: Any, counter: RpcCounter) -> None:
        running = channel.unary_unary("/test.Echo/Hang")(b"")
        await asyncio.wait_for(began.wait(), 10)
        assert counter.count == 1
        running.cancel()
        await asyncio.wait_for(cancelled.wait(), 10)
        await asyncio.wait_for(counter.wait_idle(), 10)

    await with_echo(body, {"Hang": grpc.unary_unary_rpc_method_handler(hang)})
