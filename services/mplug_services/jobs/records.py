"""What is known of a job, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import grpc

from mplug_services.errors import Failure


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class DataName:
    """Rows under a job root."""

    name: str
    """The root's name and the path in it, as ``photos/2024/rows.jsonl``."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """What a client wants trained."""

    recipe: str
    settings: tuple[str, ...] = ()
    """As `mplug train --set` takes them; names in them are those of the API, not paths."""
    model: str = ""
    """Name of the model that comes out."""
    data: tuple[DataName, ...] = ()
    """Empty: the rows that the client sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """How far a run is, by its log."""

    step: int = 0
    num_steps: int = 0
    loss: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    metrics_step: int = 0
    step_seconds: float = 0.0

    @property
    def remaining_seconds(self) -> float:
        """Until the last step, evaluations left out."""
        return max(0, self.num_steps - self.step) * self.step_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What came out."""

    folder: str
    """Of the model, relative to the job's."""
    tasks: tuple[str, ...]
    """What it is served for."""
    metrics: Mapping[str, float]
    """Of the best checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job. Times are seconds since 1970."""

    id: str
    number: int
    """Counted over all jobs of a folder: their order."""
    request_id: str = ""
    state: JobState = JobState.QUEUED
    spec: TrainSpec
    create_time: float
    start_time: float | None = None
    end_time: float | None = None
    progress: TrainProgress | None = None
    result: TrainResult | None = None
    error: Failure | None = None

    @property
    def claims_model(self) -> bool:
        """Whether the name of its model is taken: it is there, or will be."""
        return self.state not in (JobState.FAILED, JobState.CANCELLED)


def to_json(record: JobRecord) -> str:
    """A record as text."""
    values = asdict(record)
    if record.error is not None:
        values["error"]["code"] = record.error.code.name
    return json.dumps(values, indent=1, ensure_ascii=False)


def from_json(text: str) -> JobRecord:
    """The record of a text that `to_json` made.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    values: dict[str, Any] = json.loads(text)  # Any: JSON
    spec, progress, result, error = (values.pop(name) for name in ("spec", "progress", "result", "error"))
    return JobRecord(
        **{**values, "state": JobState(values["state"])},
        spec=TrainSpec(
            recipe=spec["recipe"],
            settings=tuple(spec["settings"]),
            model=spec["model"],
            data=tuple(DataName(**each) for each in spec["data"]),
        ),
        progress=progress and TrainProgress(**progress),
        result=result and TrainResult(**{**result, "tasks": tuple(result["tasks"])}),
        error=error and Failure(**{**error, "code": grpc.StatusCode[error["code"]]}),
    )
