"""A call as a value, and flows: what a method does, written once for the sync and the async client.

A flow is a generator that yields the RPCs it needs and is sent their responses; it does no input or
output of its own apart from reading the files that its caller names. The clients only drive flows.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from mplug_services.client.errors import ClientError, OverloadedError
from mplug_services.client.types import Limits

T = TypeVar("T")
ResponseT = TypeVar("ResponseT", bound=Message)

_MESSAGE_OVERHEAD = 64 * 1024
"""Bytes of a message left for what is not items: names, filters, tags and lengths."""


@dataclass(frozen=True, slots=True)
class Call:
    """One unary RPC: where it goes, what it carries, how its answer is read."""

    service: str
    rpc: str
    request: Message
    response_type: type[Message]

    @property
    def path(self) -> str:
        """The method's path on the wire."""
        return f"/mplug_api.v1.{self.service}/{self.rpc}"


class Upload:
    """One RPC of many messages and one answer.

    Args:
        service: where it goes.
        rpc: likewise.
        messages: makes the messages anew for each attempt.
        response_type: how its answer is read.
    """

    def __init__(
        self,
        service: str,
        rpc: str,
        messages: Callable[[], Iterator[Message]],
        response_type: type[Message],
    ) -> None:
        self.path = f"/mplug_api.v1.{service}/{rpc}"
        self.response_type = response_type
        self.broken: Exception | None = None
        """Why a message could not be made."""
        self._messages = messages

    def requests(self) -> Iterator[Message]:
        """The messages; one that cannot be made ends the call, and is remembered."""
        self.broken = None
        try:
            yield from self._messages()
        except Exception as error:
            self.broken = error
            raise

    def failure(self, error: ClientError) -> ClientError:
        """The error of a call that broke, where trying again makes sense.

        Raises:
            ClientError: A message could not be made; or there is too much to do, and more will not fit in soon.
        """
        if self.broken is not None:
            raise self.broken from None
        if isinstance(error, OverloadedError):
            raise error
        return error


Flow = Generator[Call, Message, T]


def ask(service: str, rpc: str, request: Message, response_type: type[ResponseT]) -> Flow[ResponseT]:
    """The flow of a single RPC."""
    response = yield Call(service, rpc, request, response_type)
    assert isinstance(response, response_type)
    return response


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The value that a flow ended with."""

    value: T


def step(flow: Flow[T], response: Message | None) -> Call | Done[T]:
    """Takes a flow to its next RPC, or to its end; the first step has no response."""
    try:
        return next(flow) if response is None else flow.send(response)
    except StopIteration as end:
        return Done(end.value)


def chunks(
    items: Iterable[T], size: Callable[[T], int], limits: Limits, *, room: int | None = None
) -> Iterator[list[T]]:
    """Splits a batch by the server's limits on items and bytes of a message; no chunk is empty.

    `room` is what a message has for its items, where other things take much of it. An item that is too
    large by itself stands in a chunk of its own.
    """
    budget = (limits.max_message_bytes if room is None else room) - _MESSAGE_OVERHEAD
    chunk: list[T] = []
    chunk_bytes = 0
    for item in items:
        item_bytes = size(item)
        if chunk and (len(chunk) >= limits.max_batch_size or chunk_bytes + item_bytes > budget):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(item)
        chunk_bytes += item_bytes
    if chunk:
        yield chunk


def fits(item_bytes: int, limits: Limits) -> bool:
    """Whether an item of that size can be sent at all."""
    return item_bytes <= limits.max_message_bytes - _MESSAGE_OVERHEAD


def duplicates(ids: Sequence[str]) -> list[str]:
    """The ids that stand more than once in a batch, in order."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for id in ids:
        if id in seen:
            twice[id] = None
        seen.add(id)
    return list(twice)
