"""What a call can fail with: one exception per family of gRPC status codes.

Everything the server says about a failure (google.rpc details) is an attribute: the reason, the fields
that are wrong, how long to wait.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong, and why."""

    field: str
    description: str


class ClientError(Exception):
    """A call that failed.

    Attributes:
        code: The gRPC status code's name, e.g. "NOT_FOUND".
        message: What went wrong, for people.
        reason: What went wrong, for programs, e.g. "COLLECTION_NOT_FOUND"; "" where the server gave none.
        metadata: Further facts about the reason.
        violations: The fields of the request that are wrong.
        retry_delay: Seconds after which trying again makes sense; None where the server gave none.
    """

    default_code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_delay: float | None = None,
    ) -> None:
        self.code = code or self.default_code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_delay = retry_delay
        super().__init__(message)

    def __str__(self) -> str:
        # A server's message often names the field already; it is not said twice.
        fields = [
            f"{violation.field}: {violation.description}"
            for violation in self.violations
            if violation.description not in self.message
        ]
        return "; ".join([self.message or self.code, *fields])


class InvalidRequestError(ClientError, ValueError):
    """The request is wrong as it stands; sending it again changes nothing."""

    default_code = "INVALID_ARGUMENT"


class NotFoundError(ClientError):
    """The collection, alias or point that the request names is not there."""

    default_code = "NOT_FOUND"


class AlreadyExistsError(ClientError):
    """What the request would make is there already."""

    default_code = "ALREADY_EXISTS"


class FailedPreconditionError(ClientError):
    """The request is right, but not for the server's state: vectors of another model, for instance."""

    default_code = "FAILED_PRECONDITION"


class PermissionDeniedError(ClientError):
    """The caller may not do this, or did not say who he is."""

    default_code = "PERMISSION_DENIED"


class OverloadedError(ClientError):
    """The server has too much to do, or the message is too large for it."""

    default_code = "RESOURCE_EXHAUSTED"


class UnavailableError(ClientError):
    """No server answers there, or it is stopping."""

    default_code = "UNAVAILABLE"


class DeadlineExceededError(ClientError):
    """The answer did not come in time. A write may have been done all the same."""

    default_code = "DEADLINE_EXCEEDED"


class ServerError(ClientError):
    """The server failed in a way that is its own fault, or does not know the call."""

    default_code = "INTERNAL"


_BY_CODE: dict[str, type[ClientError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": FailedPreconditionError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "UNAUTHENTICATED": PermissionDeniedError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "INTERNAL": ServerError,
    "DATA_LOSS": ServerError,
    "UNIMPLEMENTED": ServerError,
}


def from_status(status: Status) -> ClientError:
    """The exception that a google.rpc.Status describes."""
    code = Code.Name(status.code) if status.code in Code.values() else "UNKNOWN"
    info = ErrorInfo()
    bad_request = BadRequest()
    retry = RetryInfo()
    has_retry = False
    for detail in status.details:
        # Unpack is false, and changes nothing, where the detail is of another type.
        detail.Unpack(info)
        detail.Unpack(bad_request)
        has_retry = detail.Unpack(retry) or has_retry
    return _BY_CODE.get(code, ClientError)(
        status.message,
        code=code,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=[FieldViolation(v.field, v.description) for v in bad_request.field_violations],
        retry_delay=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
    )


def from_rpc_error(error: grpc.RpcError) -> ClientError:
    """The exception for a call that gRPC ended, sync or aio."""
    code, message = _code_and_message(error)
    details = _details(error)
    if details is not None and details.code == code:
        return from_status(details)
    return from_status(Status(code=code, message=message))


def _code_and_message(error: grpc.RpcError) -> tuple[int, str]:
    if not isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        return _UNKNOWN, str(error)
    status = error.code()
    number = status.value[0] if isinstance(status, grpc.StatusCode) else _UNKNOWN
    return number, error.details() or ""


def _details(error: grpc.RpcError) -> Status | None:
    if not isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        return None
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                return None
    return None
