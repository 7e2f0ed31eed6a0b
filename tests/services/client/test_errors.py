import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mplug_services import client as public
from mplug_services.client import Client, ClientError, FieldViolation, RetryPolicy
from mplug_services.client.errors import from_status
from services.client.scripted_server import ScriptedServer, abort

ONCE = RetryPolicy(max_attempts=1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", "InvalidRequestError"),
        ("NOT_FOUND", "NotFoundError"),
        ("ALREADY_EXISTS", "AlreadyExistsError"),
        ("FAILED_PRECONDITION", "FailedPreconditionError"),
        ("PERMISSION_DENIED", "PermissionDeniedError"),
        ("UNAUTHENTICATED", "PermissionDeniedError"),
        ("RESOURCE_EXHAUSTED", "OverloadedError"),
        ("UNAVAILABLE", "UnavailableError"),
        ("DEADLINE_EXCEEDED", "DeadlineExceededError"),
        ("INTERNAL", "ServerError"),
        ("UNIMPLEMENTED", "ServerError"),
        ("UNKNOWN", "ClientError"),
    ],
)
def test_each_status_code_is_an_exception_of_its_own_kind(
    server: ScriptedServer, code: str, kind: str
) -> None:
    server.on("Count", lambda request, context: context.abort(grpc.StatusCode[code], "no"))
    with Client(server.address, retry=ONCE) as client, pytest.raises(ClientError) as caught:
        client.count("pets")
    assert type(caught.value) is getattr(public, kind)
    assert caught.value.code == code
    assert caught.value.message == "no"


def test_an_error_carries_reason_fields_and_delay(server: ScriptedServer) -> None:
    server.on(
        "Count",
        lambda request, context: abort(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "the request is wrong",
            ErrorInfo(reason="INVALID_FILTER", domain="mplug", metadata={"key": "age"}),
            BadRequest(field_violations=[BadRequest.FieldViolation(field="filter", description="is empty")]),
            RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        ),
    )
    with Client(server.address, retry=ONCE) as client, pytest.raises(public.InvalidRequestError) as caught:
        client.count("pets")
    error = caught.value
    assert error.reason == "INVALID_FILTER"
    assert error.metadata == {"key": "age"}
    assert error.violations == (FieldViolation("filter", "is empty"),)
    assert error.retry_delay == 1.5
    assert str(error) == "the request is wrong; filter: is empty"


def test_what_the_message_says_already_is_not_said_twice() -> None:
    error = ClientError("name: is empty", violations=[FieldViolation("name", "is empty")])
    assert str(error) == "name: is empty"


def test_a_status_with_an_unknown_code_is_still_an_error() -> None:
    error = from_status(Status(code=4711, message="odd"))
    assert (error.code, error.message) == ("UNKNOWN", "odd")


def test_broken_details_do_not_hide_the_error(server: ScriptedServer) -> None:
    def answer(request: object, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    server.on("Count", answer)
    with Client(server.address, retry=ONCE) as client, pytest.raises(public.NotFoundError, match="gone"):
        client.count("pets")


def test_a_mistake_in_a_request_is_a_value_error() -> None:
    assert issubclass(public.InvalidRequestError, ValueError)
