import time
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from mplug_api.v1 import index_service_pb2
from mplug_services.client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    RetryPolicy,
    UnavailableError,
)
from mplug_services.client.retry import Attempts
from services.client.conftest import FAST_RETRY
from services.client.scripted_server import ScriptedServer, abort

Answer = Callable[[object, grpc.ServicerContext], object]


def failing_first(times: int, fail: Answer) -> Answer:
    left = [times]

    def answer(request: object, context: grpc.ServicerContext) -> object:
        if left[0]:
            left[0] -= 1
            fail(request, context)
        return index_service_pb2.CountResponse(count=7)

    return answer


def unavailable(request: object, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "starting")


def overloaded(seconds: float) -> Answer:
    delay = Duration(nanos=int(seconds * 1e9))
    return lambda request, context: abort(
        context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", RetryInfo(retry_delay=delay)
    )


def test_unavailable_is_tried_again(server: ScriptedServer) -> None:
    server.on("Count", failing_first(2, unavailable))
    with Client(server.address, retry=FAST_RETRY) as client:
        assert client.count("pets") == 7
    assert server.calls == ["Count"] * 3


async def test_unavailable_is_tried_again_async(server: ScriptedServer) -> None:
    server.on("Count", failing_first(2, unavailable))
    async with AsyncClient(server.address, retry=FAST_RETRY) as client:
        assert await client.count("pets") == 7
    assert server.calls == ["Count"] * 3


def test_the_last_attempt_s_error_comes_out(server: ScriptedServer) -> None:
    server.on("Count", unavailable)
    with (
        Client(server.address, retry=FAST_RETRY) as client,
        pytest.raises(UnavailableError, match="starting"),
    ):
        client.count("pets")
    assert len(server.calls) == FAST_RETRY.max_attempts


def test_an_overloaded_server_s_delay_is_honoured(server: ScriptedServer) -> None:
    server.on("Count", failing_first(1, overloaded(0.3)))
    started = time.monotonic()
    with Client(server.address, retry=FAST_RETRY) as client:
        assert client.count("pets") == 7
    assert time.monotonic() - started >= 0.3


def test_an_overload_without_a_delay_is_not_tried_again(server: ScriptedServer) -> None:
    server.on(
        "Count", lambda request, context: context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
    )
    with Client(server.address, retry=FAST_RETRY) as client, pytest.raises(OverloadedError):
        client.count("pets")
    assert len(server.calls) == 1


def test_a_wrong_request_is_not_tried_again(server: ScriptedServer) -> None:
    server.on("Count", lambda request, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no"))
    with Client(server.address, retry=FAST_RETRY) as client, pytest.raises(InvalidRequestError):
        client.count("pets")
    assert len(server.calls) == 1


def test_a_delay_beyond_the_deadline_is_not_waited_for(server: ScriptedServer) -> None:
    server.on("Count", overloaded(0.9))
    started = time.monotonic()
    with Client(server.address, retry=FAST_RETRY, timeout=0.5) as client, pytest.raises(OverloadedError):
        client.count("pets")
    assert time.monotonic() - started < 0.5


def test_the_deadline_ends_a_call_and_reaches_the_server(server: ScriptedServer) -> None:
    seen: list[float] = []

    def never(request: object, context: grpc.ServicerContext) -> index_service_pb2.CountResponse:
        remaining = context.time_remaining()
        assert remaining is not None
        seen.append(remaining)
        # Ends when the client is gone; nothing is left running.
        done = grpc.StatusCode.CANCELLED
        while context.is_active():
            time.sleep(0.01)
        context.set_code(done)
        return index_service_pb2.CountResponse()

    server.on("Count", never)
    with Client(server.address) as client, pytest.raises(DeadlineExceededError):
        client.count("pets", timeout=0.3)
    # gRPC rounds the time that is left up to whole steps on its way.
    assert 0 < seen[0] < 0.5


def test_no_server_at_all_is_unavailable() -> None:
    with Client("127.0.0.1:1", retry=FAST_RETRY, timeout=5) as client, pytest.raises(UnavailableError):
        client.count("pets")


def test_backoff_doubles_up_to_its_limit_and_jitter_only_shortens_it() -> None:
    exact = RetryPolicy(initial_backoff=0.1, max_backoff=0.5, jitter=0)
    assert [exact.backoff(n) for n in (1, 2, 3, 4)] == pytest.approx([0.1, 0.2, 0.4, 0.5])
    jittered = RetryPolicy(initial_backoff=0.1, jitter=0.5)
    waits = [jittered.backoff(1) for _ in range(50)]
    assert all(0.05 <= wait <= 0.1 for wait in waits)
    assert len(set(waits)) > 1


def test_progress_forgets_past_failures() -> None:
    attempts = Attempts(RetryPolicy(max_attempts=2, initial_backoff=0.01), timeout=None)
    attempts.delay_after(UnavailableError("gone"))
    attempts.reset()
    assert attempts.delay_after(UnavailableError("gone")) > 0


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"jitter": 1.5}])
def test_an_impossible_policy_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]  # the table holds ints and floats
