"""Between the messages of JobService and what the jobs are made of."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from mplug_api.v1 import job_service_pb2 as pb
from mplug_services import wire
from mplug_services.config import MODEL_NAME
from mplug_services.errors import invalid_argument, to_status
from mplug_services.jobs.records import (
    DataName,
    JobRecord,
    JobState,
    TrainProgress,
    TrainResult,
    TrainSpec,
)
from mplug_services.jobs.rows import SentRow
from mplug_services.jobs.training import TASK_FIELD

MAX_REQUEST_ID_BYTES = 128

_STATES = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}


def read_options(options: pb.JobOptions) -> JobRecord:
    """A job as a client asks for it, with an id; its number comes later.

    Raises:
        ServiceError: no task, or a name or weight that cannot be.
    """
    size = len(options.request_id.encode())
    if size > MAX_REQUEST_ID_BYTES:
        raise invalid_argument(
            "options.request_id", f"{size} bytes; the limit is {MAX_REQUEST_ID_BYTES}", reason="INVALID_ID"
        )
    if options.WhichOneof("task") != "train":
        raise invalid_argument("options.task", "say what is to be done: train", reason="NO_TASK")
    id = uuid.uuid4().hex
    return JobRecord(
        id=id,
        number=0,
        request_id=options.request_id,
        spec=_read_train(options.train, id),
        create_time=time.time(),
    )


def _read_train(task: pb.TrainTask, id: str) -> TrainSpec:
    model = task.model or f"{task.recipe}-{id[:8]}"
    if task.model and not MODEL_NAME.fullmatch(task.model):
        raise invalid_argument(
            f"{TASK_FIELD}.model",
            f"{task.model[:200]!r} is no name: letters, digits, '_', '-' and '.', at most 64, the first no sign",
            reason="INVALID_NAME",
        )
    data = [_read_data(each, f"{TASK_FIELD}.data[{number}]") for number, each in enumerate(task.data)]
    return TrainSpec(recipe=task.recipe, settings=tuple(task.settings), model=model, data=tuple(data))


def _read_data(data: pb.TrainData, field: str) -> DataName:
    weight = data.weight if data.HasField("weight") else 1.0
    if not 0 < weight < float("inf"):
        raise invalid_argument(
            f"{field}.weight", f"{weight} is no weight; give a number above 0", reason="INVALID_WEIGHT"
        )
    return DataName(data.name, weight)


def read_row(row: pb.TrainRow) -> SentRow:
    """A row without its picture; what is wrong with it is said elsewhere."""
    return SentRow(
        name=row.name,
        captions=tuple(row.captions),
        captions_zh=tuple(row.captions_zh),
        question=row.question,
        answers=tuple(answer.text for answer in row.answers),
        weights=tuple(answer.weight if answer.HasField("weight") else None for answer in row.answers),
        type=row.type,
        split=row.split,
        set=row.set,
        identity=row.identity,
        text=row.text,
        target=row.target,
    )


def read_states(states: Sequence[int], field: str) -> set[JobState]:
    """Wanted states; all where none is named.

    Raises:
        ServiceError: an unknown one.
    """
    known: dict[int, JobState] = {number: state for state, number in _STATES.items()}
    for place, number in enumerate(states):
        if number not in known:
            raise invalid_argument(
                f"{field}[{place}]", f"{number} is no known JobState", reason="UNKNOWN_STATE"
            )
    return {known[number] for number in states} or set(_STATES)


def write_job(record: JobRecord) -> pb.Job:
    """A job as its clients see it."""
    return pb.Job(
        id=record.id,
        state=_STATES[record.state],
        create_time=_write_time(record.create_time),
        start_time=_write_time(record.start_time),
        end_time=_write_time(record.end_time),
        error=None if record.error is None else to_status(record.error),
        train=pb.TrainJob(
            task=_write_train(record.spec),
            progress=None if record.progress is None else _write_progress(record.progress),
            result=None if record.result is None else _write_result(record.spec.model, record.result),
        ),
    )


def _write_time(seconds: float | None) -> Timestamp | None:
    return None if seconds is None else wire.write_time(datetime.fromtimestamp(seconds, UTC))


def _write_train(spec: TrainSpec) -> pb.TrainTask:
    return pb.TrainTask(
        recipe=spec.recipe,
        settings=spec.settings,
        model=spec.model,
        data=[pb.TrainData(name=each.name, weight=each.weight) for each in spec.data],
    )


def _write_progress(progress: TrainProgress) -> pb.TrainProgress:
    return pb.TrainProgress(
        step=progress.step,
        num_steps=progress.num_steps,
        loss=progress.loss,
        losses=progress.losses,
        metrics=progress.metrics,
        metrics_step=progress.metrics_step,
        step_time=wire.write_duration(progress.step_seconds),
        remaining_time=wire.write_duration(progress.remaining_seconds),
    )


def _write_result(model: str, result: TrainResult) -> pb.TrainResult:
    return pb.TrainResult(model=model, tasks=result.tasks, metrics=result.metrics)
