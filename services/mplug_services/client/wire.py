"""Between the client's plain values and the protobuf messages, both ways; nothing else knows both."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from mplug_api.v1 import common_pb2, model_service_pb2, search_service_pb2
from mplug_index.filters import Condition, Filter, HasId, Match, NumberRange, TimeRange
from mplug_index.types import Payload, PayloadValue
from mplug_services.client.errors import InvalidRequestError
from mplug_services.client.types import (
    AttentionKernel,
    FloatVector,
    ImageInput,
    ImageSource,
    KeepImages,
    Limits,
    ModelVersion,
    Part,
    ServedModel,
    ServerInfo,
    Timings,
)

BoundT = TypeVar("BoundT")
WireT = TypeVar("WireT")

_KEEP_IMAGES = {
    KeepImages.SERVER_DEFAULT: search_service_pb2.KEEP_IMAGES_UNSPECIFIED,
    KeepImages.NONE: search_service_pb2.KEEP_IMAGES_NONE,
    KeepImages.ORIGINAL: search_service_pb2.KEEP_IMAGES_ORIGINAL,
    KeepImages.THUMBNAIL: search_service_pb2.KEEP_IMAGES_THUMBNAIL,
}


def image_to_wire(image: ImageSource) -> common_pb2.ImageInput:
    """A picture as it is sent; a file is read here.

    Raises:
        InvalidRequestError: The file cannot be read (reason "UNREADABLE_FILE").
    """
    if isinstance(image, Path):
        try:
            return common_pb2.ImageInput(data=image.read_bytes())
        except OSError as error:
            message = f"{image} cannot be read: {error.strerror}"
            raise InvalidRequestError(message, reason="UNREADABLE_FILE") from error
    if isinstance(image, ImageInput):
        if image.data is None:
            return common_pb2.ImageInput(uri=image.uri or "")
        return common_pb2.ImageInput(data=image.data)
    if not isinstance(image, bytes):
        raise TypeError(f"a picture is bytes, a Path or an ImageInput, not {type(image).__name__}")
    return common_pb2.ImageInput(data=image)


def vector_to_wire(vector: FloatVector) -> common_pb2.Vector:
    """A float vector (D,) as little-endian float32.

    Raises:
        InvalidRequestError: It has not exactly one axis.
    """
    array = np.asarray(vector)
    if array.ndim != 1:
        raise InvalidRequestError(f"a vector has one axis, not {array.ndim} (shape {array.shape})")
    data = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return common_pb2.Vector(data=data, dtype=common_pb2.VECTOR_DTYPE_FLOAT32)


def vector_from_wire(vector: common_pb2.Vector) -> FloatVector:
    """A vector as float32 (D,), whatever dtype it came in."""
    dtype = "<f2" if vector.dtype == common_pb2.VECTOR_DTYPE_FLOAT16 else "<f4"
    return np.frombuffer(vector.data, dtype=dtype).astype(np.float32)


def _time_to_wire(value: datetime) -> Timestamp:
    if value.tzinfo is None:
        raise InvalidRequestError(f"the time {value} has no time zone; give it one, e.g. tzinfo=UTC")
    timestamp = Timestamp()
    timestamp.FromDatetime(value)
    return timestamp


def value_to_wire(value: PayloadValue) -> common_pb2.Value:
    """One payload value.

    Raises:
        InvalidRequestError: It is of no payload type, or a time without its zone.
    """
    # bool before the numbers: True is an int in Python.
    if isinstance(value, bool):
        return common_pb2.Value(boolean=value)
    if isinstance(value, str):
        return common_pb2.Value(keyword=value)
    if isinstance(value, (int, float)):
        return common_pb2.Value(number=value)
    if isinstance(value, datetime):
        return common_pb2.Value(time=_time_to_wire(value))
    if isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value):
        return common_pb2.Value(keywords=common_pb2.KeywordList(values=value))
    raise InvalidRequestError(
        f"a payload value is a str, a number, a bool, a datetime or a tuple of str, not {value!r}"
    )


def value_from_wire(value: common_pb2.Value) -> PayloadValue:
    """One payload value, as Python has it."""
    match value.WhichOneof("kind"):
        case "boolean":
            return value.boolean
        case "number":
            return value.number
        case "time":
            return value.time.ToDatetime(tzinfo=UTC)
        case "keywords":
            return tuple(value.keywords.values)
        case _:
            return value.keyword


def payload_to_wire(payload: Payload) -> dict[str, common_pb2.Value]:
    """A payload, field by field; an error names the field."""
    fields = {}
    for key, value in payload.items():
        try:
            fields[key] = value_to_wire(value)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"payload[{key!r}]: {error.message}") from error
    return fields


def payload_from_wire(payload: Mapping[str, common_pb2.Value]) -> dict[str, PayloadValue]:
    """A payload, as Python has it."""
    return {key: value_from_wire(payload[key]) for key in payload}


def _condition_to_wire(condition: Condition) -> common_pb2.Condition:
    if isinstance(condition, Filter):
        return common_pb2.Condition(filter=filter_to_wire(condition))
    if isinstance(condition, HasId):
        return common_pb2.Condition(ids=common_pb2.IdCondition(ids=condition.ids))
    field = common_pb2.FieldCondition(key=condition.key)
    if isinstance(condition, Match):
        field.match.CopyFrom(common_pb2.MatchAny(values=[value_to_wire(v) for v in condition.values]))
    elif isinstance(condition, NumberRange):
        field.number_range.CopyFrom(common_pb2.NumberRange(**_bounds(condition, float)))
    elif isinstance(condition, TimeRange):
        field.time_range.CopyFrom(common_pb2.TimeRange(**_bounds(condition, _time_to_wire)))
    else:
        field.exists = condition.present
    return common_pb2.Condition(field=field)


def _bounds(condition: NumberRange | TimeRange, convert: Callable[[BoundT], WireT]) -> dict[str, WireT]:
    given = {name: getattr(condition, name) for name in ("gte", "gt", "lte", "lt")}
    return {name: convert(bound) for name, bound in given.items() if bound is not None}


def filter_to_wire(filter: Filter | None) -> common_pb2.Filter | None:
    """A filter, with those nested in it."""
    if filter is None:
        return None
    return common_pb2.Filter(
        must=[_condition_to_wire(condition) for condition in filter.must],
        should=[_condition_to_wire(condition) for condition in filter.should],
        must_not=[_condition_to_wire(condition) for condition in filter.must_not],
    )


def part_to_wire(part: Part) -> search_service_pb2.QueryPart:
    """One part of a search; a picture given as a file is read here."""
    if part.text is not None:
        return search_service_pb2.QueryPart(text=part.text, weight=part.weight)
    if part.image is not None:
        return search_service_pb2.QueryPart(image=image_to_wire(part.image), weight=part.weight)
    if part.vector is not None:
        return search_service_pb2.QueryPart(vector=vector_to_wire(part.vector), weight=part.weight)
    return search_service_pb2.QueryPart(stored_id=part.stored_id or "", weight=part.weight)


def keep_images_to_wire(keep_images: KeepImages) -> search_service_pb2.KeepImages.ValueType:
    """What the server is to keep of a picture."""
    return _KEEP_IMAGES[keep_images]


def timings_from_wire(timings: common_pb2.Timings) -> Timings:
    """Durations as seconds."""
    stages = {
        stage.name: getattr(timings, stage.name).ToTimedelta().total_seconds() for stage in fields(Timings)
    }
    return Timings(**stages)


def model_from_wire(model: common_pb2.ModelVersion) -> ModelVersion:
    """Which model made an answer."""
    return ModelVersion(name=model.name, fingerprint=model.fingerprint)


def limits_from_wire(limits: model_service_pb2.Limits) -> Limits:
    """The server's published limits."""
    return Limits(**{limit.name: getattr(limits, limit.name) for limit in fields(Limits)})


def server_info_from_wire(info: model_service_pb2.GetServerInfoResponse) -> ServerInfo:
    """What a server says of itself."""
    models = [
        ServedModel(**{attribute.name: getattr(model, attribute.name) for attribute in fields(ServedModel)})
        for model in info.models
    ]
    return ServerInfo(
        version=info.version,
        models=tuple(models),
        limits=limits_from_wire(info.limits),
        services=tuple(info.services),
        start_time=info.start_time.ToDatetime(tzinfo=UTC),
        kernels=tuple(AttentionKernel(each.name, each.compiled, each.explanation) for each in info.kernels),
    )
