"""Typed clients of a server: `Client` for blocking code, `AsyncClient` for asyncio.

Neither torch nor faiss nor Pillow is imported here, so that a thin client starts fast.
"""

from mplug_index.filters import Exists, Filter, HasId, Match, NumberRange, TimeRange
from mplug_index.types import CollectionInfo, Metric, Payload, PayloadValue, Point, ScoredPoint
from mplug_services.client.async_client import AsyncClient
from mplug_services.client.client import Client
from mplug_services.client.errors import (
    AlreadyExistsError,
    ClientError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ServerError,
    UnavailableError,
)
from mplug_services.client.retry import RetryPolicy
from mplug_services.client.types import (
    EmbedOutcome,
    ImageInput,
    ImageSource,
    IngestItem,
    IngestOutcome,
    KeepImages,
    Limits,
    ModelVersion,
    Part,
    SearchHit,
    SearchResult,
    ServedModel,
    ServerInfo,
    Timings,
    TlsOptions,
    UpsertOutcome,
)

__all__ = [
    "AlreadyExistsError",
    "AsyncClient",
    "Client",
    "ClientError",
    "CollectionInfo",
    "DeadlineExceededError",
    "EmbedOutcome",
    "Exists",
    "FailedPreconditionError",
    "FieldViolation",
    "Filter",
    "HasId",
    "ImageInput",
    "ImageSource",
    "IngestItem",
    "IngestOutcome",
    "InvalidRequestError",
    "KeepImages",
    "Limits",
    "Match",
    "Metric",
    "ModelVersion",
    "NotFoundError",
    "NumberRange",
    "OverloadedError",
    "Part",
    "Payload",
    "PayloadValue",
    "PermissionDeniedError",
    "Point",
    "RetryPolicy",
    "ScoredPoint",
    "SearchHit",
    "SearchResult",
    "ServedModel",
    "ServerError",
    "ServerInfo",
    "TimeRange",
    "Timings",
    "TlsOptions",
    "UnavailableError",
    "UpsertOutcome",
]
