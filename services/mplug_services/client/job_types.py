"""What goes into the client's jobs and comes out of them: plain values, no protobuf."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mplug_services.client.errors import ClientError
from mplug_services.client.types import ImageSource


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """A picture with what is said of it, or with a question and its answers."""

    image: ImageSource
    name: str = ""
    """A relative path: rows of one name are of one picture. Empty: one is made."""
    captions: Sequence[str] = ()
    captions_zh: Sequence[str] = ()
    question: str = ""
    answers: Sequence[str | tuple[str, float]] = ()
    """Each alone, or all with their weights."""
    type: str = ""
    """What is asked for, such as "colour"."""
    split: str = ""
    """"train", "dev", "val" or "test"."""
    set: str = ""
    """Pictures of one kind."""
    identity: str = ""
    """Pictures of one identity are no counterexamples of each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainText:
    """What a generator of texts learns from."""

    text: str
    """What it reads; without a target, the text that it learns to write."""
    target: str = ""
    """What it should write, having read that."""
    split: str = ""
    """"train", "dev", "val" or "test"."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a training is."""

    step: int
    num_steps: int
    loss: float
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    """Of the last evaluation."""
    metrics_step: int
    step_seconds: float
    remaining_seconds: float
    """Until the last step, evaluations left out."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training came to."""

    model: str
    """Its name: what the client's methods take as `model`."""
    tasks: tuple[str, ...]
    """What it is served for."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the checkpoint that was best."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when the server was asked."""

    id: str
    state: JobState
    create_time: datetime
    start_time: datetime | None
    """When it was last begun or gone on with."""
    end_time: datetime | None
    recipe: str
    settings: tuple[str, ...]
    model: str
    """Name of the model that comes out."""
    data: tuple[str, ...]
    """Rows on the server that were named; empty: a client sent some."""
    progress: TrainProgress | None
    result: TrainResult | None
    error: ClientError | None
    """Why it failed."""
