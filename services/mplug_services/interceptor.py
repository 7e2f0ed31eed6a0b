"""The interceptor that ends every failed RPC with a proper status, for all four kinds, and counts RPCs under way."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import grpc
from grpc import aio

from mplug_services.errors import Failure, to_failure, to_status, unavailable

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

# Any: one wrapper serves handlers of every message type and both shapes of request, as gRPC's own do.
Handler = Callable[[Any, Any], Any]

_DETAILS_KEY = "grpc-status-details-bin"
RETRY_SECONDS = 1.0
"""After which another server, or this one's successor, may take what a stopping one refused."""
_NOT_COUNTED = ("/grpc.health.", "/grpc.reflection.")
"""Watchers stay open as long as the server; they are no work to be finished."""


class RpcCounter:
    """How many RPCs are under way; a drain lets in no more and waits for none."""

    def __init__(self) -> None:
        self._closed = False
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def count(self) -> int:
        """RPCs under way."""
        return self._count

    def close(self) -> None:
        """Let no further RPC begin; those under way go on."""
        self._closed = True

    async def wait_idle(self) -> None:
        """Wait until no RPC is under way."""
        await self._idle.wait()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count one RPC for the time of the block.

        Raises:
            ServiceError: no further RPC may begin.
        """
        if self._closed:
            raise unavailable("SERVER_STOPPING", "the server is shutting down", retry_seconds=RETRY_SECONDS)
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()


class ErrorInterceptor(aio.ServerInterceptor):
    """Turns exceptions into statuses with details.

    Args:
        counter: counts the RPCs of our own services.
    """

    def __init__(self, counter: RpcCounter) -> None:
        self._counter = counter

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[RequestT, ResponseT] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Wrap the method's handler; unknown methods pass through."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        counted = not method.startswith(_NOT_COUNTED)
        return self._wrap(handler, self._counter.one if counted else contextlib.nullcontext)

    def _wrap(
        self,
        handler: grpc.RpcMethodHandler[RequestT, ResponseT],
        scope: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT]:
        behaviour, build = _parts(handler)
        if inspect.isasyncgenfunction(behaviour):
            guarded = _guard_generator(behaviour, scope)
        else:
            guarded = _guard_call(behaviour, scope)
        wrapped: grpc.RpcMethodHandler[RequestT, ResponseT] = build(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped


def _parts(handler: grpc.RpcMethodHandler[Any, Any]) -> tuple[Handler, Callable[..., Any]]:
    behaviours = {
        (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    }
    behaviour, build = behaviours[handler.request_streaming, handler.response_streaming]
    assert behaviour is not None, "a handler has the behaviour of its own kind"
    return behaviour, build


def _guard_call(behaviour: Handler, scope: Callable[[], contextlib.AbstractContextManager[None]]) -> Handler:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            with scope():
                return await behaviour(request, context)
        except (asyncio.CancelledError, aio.AbortError):
            raise
        except Exception as error:
            await abort(context, to_failure(error))

    return call


def _guard_generator(
    behaviour: Handler, scope: Callable[[], contextlib.AbstractContextManager[None]]
) -> Handler:
    async def stream(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            with scope():
                async with contextlib.aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
        except (asyncio.CancelledError, aio.AbortError):
            raise
        except Exception as error:
            await abort(context, to_failure(error))

    return stream


async def abort(context: aio.ServicerContext[Any, Any], failure: Failure) -> None:
    """End the RPC with a failure and its details; raises, as gRPC's abort does."""
    status = to_status(failure)
    trailers = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(failure.code, failure.message, trailers)
