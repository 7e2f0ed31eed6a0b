"""The one door between protobuf messages and what the services work with: numpy, dataclasses, str.

Readers raise `ServiceError` (INVALID_ARGUMENT) with the path of the field. Payload keys that begin with `_` are the
server's own: clients neither write nor see them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from numpy.typing import NDArray

from mplug_api.v1 import common_pb2 as pb
from mplug_api.v1.index_service_pb2 import VectorPart
from mplug_api.v1.search_service_pb2 import QueryPart
from mplug_index.types import Payload, PayloadValue
from mplug_services.embedder import StageSeconds
from mplug_services.errors import invalid_argument
from mplug_services.image_reader import ImageSource, ImageUri
from mplug_services.served_model import ServedModel

RESERVED_PREFIX = "_"

_DTYPES: Mapping[int, np.dtype[np.floating]] = {
    pb.VECTOR_DTYPE_UNSPECIFIED: np.dtype("<f4"),
    pb.VECTOR_DTYPE_FLOAT32: np.dtype("<f4"),
    pb.VECTOR_DTYPE_FLOAT16: np.dtype("<f2"),
}


def read_dtype(dtype: int, field: str) -> int:
    """A VectorDtype that this server knows; UNSPECIFIED becomes FLOAT32."""
    if dtype not in _DTYPES:
        raise invalid_argument(field, f"{dtype} is no known VectorDtype", reason="UNKNOWN_DTYPE")
    return pb.VECTOR_DTYPE_FLOAT32 if dtype == pb.VECTOR_DTYPE_UNSPECIFIED else dtype


def read_vector(vector: pb.Vector, field: str) -> NDArray[np.float32]:
    """Packed numbers -> float32 (D,), finite, at least one."""
    dtype = _DTYPES[read_dtype(vector.dtype, f"{field}.dtype")]
    size = len(vector.data)
    if size == 0:
        raise invalid_argument(field, "the vector is empty", reason="INVALID_VECTOR")
    if size % dtype.itemsize:
        raise invalid_argument(
            field,
            f"{size} bytes are no whole number of {dtype.itemsize}-byte floats",
            reason="INVALID_VECTOR",
        )
    numbers = np.frombuffer(vector.data, dtype=dtype).astype(np.float32)
    finite = np.isfinite(numbers)
    if not finite.all():
        place = int(np.argmin(finite))
        raise invalid_argument(
            field,
            f"number {place} is {numbers[place]}; only finite numbers can be compared",
            reason="INVALID_VECTOR",
        )
    return numbers


def write_vector(vector: NDArray[np.float32], dtype: int = pb.VECTOR_DTYPE_FLOAT32) -> pb.Vector:
    """float32 (D,) -> packed little-endian numbers of a dtype that `read_dtype` returned."""
    kind = pb.VECTOR_DTYPE_FLOAT16 if dtype == pb.VECTOR_DTYPE_FLOAT16 else pb.VECTOR_DTYPE_FLOAT32
    return pb.Vector(data=vector.astype(_DTYPES[kind]).tobytes(), dtype=kind)


def read_payload(payload: Mapping[str, pb.Value], field: str) -> dict[str, PayloadValue]:
    """A client's payload; reserved keys are refused."""
    values: dict[str, PayloadValue] = {}
    for key, value in payload.items():
        check_key(key, f"{field}[{key!r}]")
        values[key] = read_value(value, f"{field}[{key!r}]")
    return values


def check_key(key: str, field: str) -> None:
    """Refuse the server's own payload keys."""
    if key.startswith(RESERVED_PREFIX):
        raise invalid_argument(
            field, "keys that begin with '_' are the server's own; choose another", reason="RESERVED_KEY"
        )


def read_value(value: pb.Value, field: str) -> PayloadValue:
    """One typed value."""
    kind = value.WhichOneof("kind")
    if kind == "keyword":
        return value.keyword
    if kind == "number":
        if not math.isfinite(value.number):
            raise invalid_argument(field, f"{value.number} cannot be stored", reason="INVALID_PAYLOAD")
        return value.number
    if kind == "boolean":
        return value.boolean
    if kind == "time":
        return read_time(value.time, field)
    if kind == "keywords":
        return tuple(value.keywords.values)
    raise invalid_argument(field, "the value has no kind", reason="INVALID_PAYLOAD")


def write_payload(payload: Payload) -> dict[str, pb.Value]:
    """What a client sees of a stored payload."""
    return {key: write_value(value) for key, value in payload.items() if not key.startswith(RESERVED_PREFIX)}


def write_value(value: PayloadValue) -> pb.Value:
    """One typed value; bool is asked for before float, as a bool is a number to Python."""
    if isinstance(value, str):
        return pb.Value(keyword=value)
    if isinstance(value, bool):
        return pb.Value(boolean=value)
    if isinstance(value, datetime):
        return pb.Value(time=write_time(value))
    if isinstance(value, tuple):
        return pb.Value(keywords=pb.KeywordList(values=value))
    return pb.Value(number=value)


def read_time(stamp: Timestamp, field: str) -> datetime:
    """An aware UTC datetime; finer than a microsecond is cut off."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid_argument(field, f"no valid time: {error}", reason="INVALID_TIME") from error


def write_time(moment: datetime) -> Timestamp:
    """An aware datetime as a Timestamp."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def write_duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def write_timings(seconds: StageSeconds, started: float) -> pb.Timings:
    """Stages that ran, and the total since `started` (`time.monotonic()`)."""
    return pb.Timings(
        prepare=_stage(seconds.prepare),
        queue=_stage(seconds.queue),
        forward=_stage(seconds.forward),
        index=_stage(seconds.index),
        total=write_duration(time.monotonic() - started),
    )


def _stage(seconds: float | None) -> Duration | None:
    return None if seconds is None else write_duration(seconds)


def write_model(model: ServedModel) -> pb.ModelVersion:
    """Which model made an answer."""
    return pb.ModelVersion(name=model.name, fingerprint=model.fingerprint)


def read_deadline(context: aio.ServicerContext[object, object]) -> float | None:
    """The RPC's deadline as `time.monotonic()`; None where the client set none."""
    # The stubs say float; it is None where there is no deadline.
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def read_image(image: pb.ImageInput, field: str) -> ImageSource:
    """A picture's bytes, or its place under the image root."""
    source = image.WhichOneof("source")
    if source == "data":
        return image.data
    if source == "uri":
        return ImageUri(image.uri)
    raise invalid_argument(field, "the picture has neither data nor uri", reason="EMPTY_IMAGE")


def check_text(text: str, field: str, max_bytes: int) -> None:
    """Refuse texts that say nothing or are beyond the limit."""
    if not text.strip():
        raise invalid_argument(field, "the text is empty; give at least one word", reason="EMPTY_TEXT")
    size = len(text.encode())
    if size > max_bytes:
        raise invalid_argument(
            field, f"{size} bytes of text; the limit is {max_bytes}", reason="TEXT_TOO_LONG"
        )


def check_batch(count: int, field: str, limit: int) -> None:
    """Refuse empty batches and those beyond the limit."""
    if count == 0:
        raise invalid_argument(field, "at least one is needed", reason="EMPTY_BATCH")
    if count > limit:
        raise invalid_argument(
            field, f"{count} items; the limit is {limit}, so split them", reason="BATCH_TOO_LARGE"
        )


def read_limited(value: int, field: str, default: int, limit: int) -> int:
    """A count from 1 to a limit; 0 means the default."""
    if value < 0 or value > limit:
        raise invalid_argument(field, f"{value} is not within 1 and {limit}", reason="OUT_OF_RANGE")
    return value or min(default, limit)


def read_weight(part: QueryPart | VectorPart, field: str) -> float:
    """A part's weight: 1 where absent; finite and not 0."""
    weight = part.weight if part.HasField("weight") else 1.0
    if not math.isfinite(weight) or weight == 0:
        raise invalid_argument(
            f"{field}.weight",
            f"{weight} is no weight; give a finite number other than 0",
            reason="INVALID_WEIGHT",
        )
    return weight


def duplicates(ids: Iterable[str]) -> list[str]:
    """Ids that stand more than once, each once, in order."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for each in ids:
        if each in seen:
            twice[each] = None
        seen.add(each)
    return list(twice)
