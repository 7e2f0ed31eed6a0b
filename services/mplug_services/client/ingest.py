"""The client's half of the Ingest stream as a state machine, without any input or output of its own.

A bounded number of pictures (and bytes) is under way. What the server has not answered yet is kept,
and sent again when the stream breaks; that is safe, since a picture is keyed by its id.
"""

import time
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn

from mplug_api.v1 import search_service_pb2 as pb
from mplug_services.client.errors import ClientError, InvalidRequestError, UnavailableError, from_status
from mplug_services.client.types import IngestItem, IngestOutcome, KeepImages
from mplug_services.client.wire import image_to_wire, keep_images_to_wire, payload_to_wire

MAX_BYTES_UNDER_WAY = 64 * 2**20


class Step(Enum):
    """What the driver of a session does next, where it is not sending or handing out."""

    TAKE = auto()
    """Take an item from the caller and offer it; None when there are no more."""
    RECEIVE = auto()
    """Read a response and have it accepted."""
    FINISH = auto()
    """Everything is answered: close the stream."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait: the server is behind, and has nothing more to answer."""

    seconds: float


Action = pb.IngestRequest | IngestOutcome | Step | Pause
"""A request is sent, an outcome is handed to the caller."""


class StreamBroken(Exception):  # noqa: N818 (an event between a driver's two loops, not an error for callers)
    """The stream ended before everything was answered."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(str(error))
        self.error = error


def ended_early() -> NoReturn:
    """Says that the server closed the stream while it still owed answers.

    Raises:
        StreamBroken: Always.
    """
    raise StreamBroken(UnavailableError("the server ended the stream before it had answered every picture"))


class IngestSession:
    """What is under way and what comes next."""

    def __init__(
        self,
        collection: str,
        *,
        create: bool,
        keep_images: KeepImages,
        skip_existing: bool,
        window: int,
        model: str = "",
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, not {window}")
        self._options = pb.IngestOptions(
            collection=collection,
            create_if_missing=create,
            keep_images=keep_images_to_wire(keep_images),
            skip_existing=skip_existing,
            model=model,
        )
        self._window = window
        self._under_way: dict[str, pb.IngestRequest] = {}
        self._bytes_under_way = 0
        self._to_send: deque[pb.IngestRequest] = deque()
        self._outcomes: deque[IngestOutcome] = deque()
        self._started = False
        self._exhausted = False
        self._silent_until = 0.0

    def open(self) -> pb.IngestRequest:
        """The first message of a stream; after a broken one, what that left unanswered is sent again."""
        self._to_send = deque(self._under_way.values())
        self._started = False
        self._silent_until = 0.0
        return pb.IngestRequest(options=self._options)

    def next_action(self) -> Action:
        """What to do now."""
        if self._outcomes:
            return self._outcomes.popleft()
        if not self._started:
            # The server may refuse the options; a refusal that crosses written items gets lost in grpc.aio.
            return Step.RECEIVE
        silence = self._silent_until - time.monotonic()
        if silence > 0:
            return Step.RECEIVE if self._under_way else Pause(silence)
        if self._to_send:
            return self._to_send.popleft()
        if not self._exhausted and self._has_room():
            return Step.TAKE
        return Step.RECEIVE if self._under_way else Step.FINISH

    def _has_room(self) -> bool:
        return len(self._under_way) < self._window and self._bytes_under_way < MAX_BYTES_UNDER_WAY

    def offer(self, item: IngestItem | None) -> None:
        """Takes an item in, or hears that there are no more; the file of its picture is read here."""
        if item is None:
            self._exhausted = True
            return
        try:
            request = self._request(item)
        except InvalidRequestError as error:
            self._outcomes.append(IngestOutcome(item.id, error=error))
            return
        self._under_way[item.id] = request
        self._bytes_under_way += len(request.item.image.data)
        self._to_send.append(request)

    def _request(self, item: IngestItem) -> pb.IngestRequest:
        if item.id in self._under_way:
            message = f"the id {item.id!r} stands more than once among the items"
            raise InvalidRequestError(message, reason="DUPLICATE_IDS")
        payload = payload_to_wire(item.payload)
        return pb.IngestRequest(
            item=pb.IngestItem(id=item.id, image=image_to_wire(item.image), payload=payload)
        )

    def accept(self, response: pb.IngestResponse) -> None:
        """Takes a response in; an ack or an error is an item's outcome."""
        match response.WhichOneof("message"):
            case "started":
                self._started = True
            case "ack":
                ack = response.ack
                outcome = IngestOutcome(ack.id, sequence_number=ack.sequence_number, skipped=ack.skipped)
                self._answered(outcome)
            case "error":
                self._answered(IngestOutcome(response.error.id, error=from_status(response.error.error)))
            case "backoff":
                delay = response.backoff.delay.ToTimedelta().total_seconds()
                self._silent_until = time.monotonic() + delay

    def _answered(self, outcome: IngestOutcome) -> None:
        request = self._under_way.pop(outcome.id, None)
        if request is not None:
            self._bytes_under_way -= len(request.item.image.data)
            self._outcomes.append(outcome)
