"""Exceptions to gRPC statuses with google.rpc details.

Every failure carries an ErrorInfo (domain `mplug-serve` and a reason); a caller's mistake carries a BadRequest
with the field, an overload a RetryInfo. What is not foreseen is INTERNAL with an error number that is also in the
log beside the trace; neither traces nor paths go to the caller.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mplug.errors import ImageError
from mplug_index import errors as index_errors
from mplug_services import work

logger = logging.getLogger(__name__)

DOMAIN = "mplug-serve"

StatusCode = grpc.StatusCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure as the caller is told of it."""

    code: grpc.StatusCode
    reason: str
    """UPPER_SNAKE_CASE, stable: programs branch on it."""
    message: str
    field: str = ""
    """Path of the field at fault, e.g. `points[3].vector`."""
    violations: Mapping[str, str] | None = None
    """By path, what is wrong with each of several fields."""
    metadata: Mapping[str, str] | None = None
    retry_seconds: float | None = None
    """After which a repetition may succeed."""


class ServiceError(Exception):
    """A failure that the services raise themselves.

    Attributes:
        failure: what the caller is told.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def invalid_argument(field: str, message: str, *, reason: str = "INVALID_ARGUMENT") -> ServiceError:
    """The caller's mistake in one field."""
    return ServiceError(
        Failure(code=StatusCode.INVALID_ARGUMENT, reason=reason, message=f"{field}: {message}", field=field)
    )


def failed_precondition(reason: str, message: str) -> ServiceError:
    """A request that is right in itself, and not as things stand."""
    return ServiceError(Failure(code=StatusCode.FAILED_PRECONDITION, reason=reason, message=message))


def not_found(reason: str, message: str) -> ServiceError:
    """A name of nothing."""
    return ServiceError(Failure(code=StatusCode.NOT_FOUND, reason=reason, message=message))


def already_exists(reason: str, message: str) -> ServiceError:
    """A name that is taken."""
    return ServiceError(Failure(code=StatusCode.ALREADY_EXISTS, reason=reason, message=message))


def permission_denied(field: str, message: str, *, reason: str) -> ServiceError:
    """What a caller may not name."""
    return ServiceError(
        Failure(code=StatusCode.PERMISSION_DENIED, reason=reason, message=f"{field}: {message}", field=field)
    )


def unavailable(reason: str, message: str, *, retry_seconds: float | None = None) -> ServiceError:
    """Not now: loading, or shutting down."""
    return ServiceError(
        Failure(code=StatusCode.UNAVAILABLE, reason=reason, message=message, retry_seconds=retry_seconds)
    )


# The first that the exception is an instance of counts, so subclasses stand before their bases.
_KNOWN: tuple[tuple[type[Exception], grpc.StatusCode, str], ...] = (
    (work.QueueFullError, StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    (work.BatchTooLargeError, StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE"),
    (work.DeadlineExceededError, StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (work.EngineStoppedError, StatusCode.UNAVAILABLE, "ENGINE_STOPPED"),
    (work.ModelRemovedError, StatusCode.UNAVAILABLE, "MODEL_REMOVED"),
    (work.NonFiniteError, StatusCode.INTERNAL, "NON_FINITE"),
    (index_errors.CollectionNotFoundError, StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND"),
    (index_errors.CollectionExistsError, StatusCode.ALREADY_EXISTS, "COLLECTION_EXISTS"),
    (index_errors.AliasNotFoundError, StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND"),
    (index_errors.PointNotFoundError, StatusCode.NOT_FOUND, "POINT_NOT_FOUND"),
    (index_errors.PictureNotFoundError, StatusCode.NOT_FOUND, "PICTURE_NOT_FOUND"),
    (index_errors.PictureAccessError, StatusCode.PERMISSION_DENIED, "PICTURE_ACCESS_DENIED"),
    (index_errors.PictureTooLargeError, StatusCode.INVALID_ARGUMENT, "IMAGE_TOO_MANY_BYTES"),
    (index_errors.FingerprintMismatchError, StatusCode.FAILED_PRECONDITION, "FINGERPRINT_MISMATCH"),
    (index_errors.DuplicateIdError, StatusCode.INVALID_ARGUMENT, "DUPLICATE_IDS"),
    (index_errors.InvalidNameError, StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    (index_errors.InvalidIdError, StatusCode.INVALID_ARGUMENT, "INVALID_ID"),
    (index_errors.DimensionMismatchError, StatusCode.INVALID_ARGUMENT, "DIMENSION_MISMATCH"),
    (index_errors.InvalidVectorError, StatusCode.INVALID_ARGUMENT, "INVALID_VECTOR"),
    (index_errors.InvalidFilterError, StatusCode.INVALID_ARGUMENT, "INVALID_FILTER"),
    (index_errors.InvalidPayloadError, StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    (index_errors.InvalidPageTokenError, StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    (index_errors.InvalidLimitError, StatusCode.INVALID_ARGUMENT, "INVALID_LIMIT"),
)


def to_failure(error: BaseException, *, field: str = "") -> Failure:
    """What the caller is told of an exception.

    Args:
        error: anything that was raised.
        field: path of the field that was being looked at; it wins over what the error says itself.
    """
    if isinstance(error, ServiceError):
        return replace(error.failure, field=field) if field and not error.failure.field else error.failure
    if isinstance(error, ImageError):
        reason = f"IMAGE_{error.reason}"
        return Failure(code=StatusCode.INVALID_ARGUMENT, reason=reason, message=str(error), field=field)
    for kind, code, reason in _KNOWN:
        if isinstance(error, kind):
            return _known_failure(error, code, reason, field)
    return _unforeseen(error)


def _known_failure(error: Exception, code: grpc.StatusCode, reason: str, field: str) -> Failure:
    metadata = (
        {"ids": ", ".join(error.ids)[:4096]} if isinstance(error, index_errors.DuplicateIdError) else None
    )
    named = field or (error.field if isinstance(error, index_errors.IndexStoreError) else "")
    return Failure(
        code=code,
        reason=reason,
        message=str(error),
        # A BadRequest names the caller's mistakes only.
        field=named if code in (StatusCode.INVALID_ARGUMENT, StatusCode.PERMISSION_DENIED) else "",
        metadata=metadata,
        retry_seconds=error.retry_after if isinstance(error, work.QueueFullError) else None,
    )


def _unforeseen(error: BaseException) -> Failure:
    number = secrets.token_hex(6)
    logger.error("unforeseen error %s", number, exc_info=error)
    return Failure(
        code=StatusCode.INTERNAL,
        reason="INTERNAL",
        message=f"the server failed; its log has the cause under error {number}",
        metadata={"error_id": number},
    )


def to_status(failure: Failure) -> Status:
    """A failure as google.rpc.Status: of one item, or of a whole RPC in its trailers."""
    number: int = failure.code.value[0]
    status = Status(code=number, message=failure.message)
    for detail in _details(failure):
        status.details.add().Pack(detail)
    return status


def _details(failure: Failure) -> Sequence[Message]:
    details: list[Message] = [
        ErrorInfo(domain=DOMAIN, reason=failure.reason, metadata=dict(failure.metadata or {}))
    ]
    violations = failure.violations or ({failure.field: failure.message} if failure.field else {})
    if violations:
        fields = [BadRequest.FieldViolation(field=each, description=why) for each, why in violations.items()]
        details.append(BadRequest(field_violations=fields))
    if failure.retry_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(int(failure.retry_seconds * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    return details


def error_status(error: BaseException, *, field: str = "") -> Status:
    """`to_status` of `to_failure`."""
    return to_status(to_failure(error, field=field))
