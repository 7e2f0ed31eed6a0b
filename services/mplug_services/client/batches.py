"""Batches of items that hold pictures: read one by one, refused alone, split by the server's limits."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from mplug_services.client.calls import fits
from mplug_services.client.errors import ClientError, InvalidRequestError
from mplug_services.client.types import Limits

SourceT = TypeVar("SourceT")
MessageT = TypeVar("MessageT", bound=Message)


def readable(
    sources: Sequence[SourceT],
    to_wire: Callable[[SourceT], MessageT],
    limits: Limits,
    refuse: Callable[[int, ClientError], None],
) -> Iterator[tuple[int, MessageT]]:
    """The items as messages with their places, each read when it is asked for.

    Those whose file cannot be read, or that no message can carry, go to `refuse` instead.
    """
    for index, source in enumerate(sources):
        try:
            message = to_wire(source)
            size = message.ByteSize()
            if not fits(size, limits):
                text = f"the picture has {size} bytes; a message holds {limits.max_message_bytes}"
                raise InvalidRequestError(text, reason="IMAGE_TOO_MANY_BYTES")
        except InvalidRequestError as error:
            refuse(index, error)
        else:
            yield index, message
