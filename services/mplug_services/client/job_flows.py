"""Flows over JobService, and between its messages and the client's values."""

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mplug_api.v1 import job_service_pb2 as pb
from mplug_services.client.calls import Call, Flow, Upload, ask
from mplug_services.client.errors import InvalidRequestError, from_status
from mplug_services.client.job_types import Job, JobState, TrainProgress, TrainResult, TrainRow, TrainText
from mplug_services.client.wire import image_to_wire

_STATES = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_FROM_WIRE: dict[int, JobState] = {number: state for state, number in _STATES.items()}


def train(
    recipe: str,
    rows: Sequence[TrainRow | TrainText],
    settings: Sequence[str],
    model: str,
    data: Sequence[str | tuple[str, float]],
    request_id: str,
) -> Upload:
    """The upload that makes a training job; sent again, it makes no second one.

    Raises:
        InvalidRequestError: Rows and data are given, or neither.
    """
    if bool(rows) == bool(data):
        raise InvalidRequestError("give either rows, or data on the server", reason="TWO_DATA")
    task = pb.TrainTask(recipe=recipe, settings=settings, model=model, data=map(_data_to_wire, data))
    options = pb.JobOptions(request_id=request_id or uuid.uuid4().hex, train=task)

    def messages() -> Iterator[Message]:
        yield pb.CreateJobRequest(options=options)
        for number, row in enumerate(rows):
            try:
                yield pb.CreateJobRequest(train_row=_row_to_wire(row))
            except InvalidRequestError as error:
                raise InvalidRequestError(f"rows[{number}]: {error.message}", reason=error.reason) from error

    return Upload("JobService", "CreateJob", messages, pb.CreateJobResponse)


def created(response: Message) -> Job:
    """The job that an upload made."""
    assert isinstance(response, pb.CreateJobResponse)
    return _job(response.job)


def get(id: str) -> Flow[Job]:
    """A job as it stands."""
    return _job((yield from ask("JobService", "GetJob", pb.GetJobRequest(id=id), pb.GetJobResponse)).job)


def list_all(states: Sequence[JobState]) -> Flow[list[Job]]:
    """All jobs, or those of some states, the newest first."""
    request = pb.ListJobsRequest(states=[_STATES[JobState(state)] for state in states])
    jobs: list[Job] = []
    while True:
        response = yield from ask("JobService", "ListJobs", request, pb.ListJobsResponse)
        jobs += map(_job, response.jobs)
        if not response.next_page_token:
            return jobs
        request.page_token = response.next_page_token


def cancel(id: str) -> Flow[Job]:
    """Ends a job."""
    request = pb.CancelJobRequest(id=id)
    return _job((yield from ask("JobService", "CancelJob", request, pb.CancelJobResponse)).job)


def watch(id: str) -> Call:
    """The call that follows a job."""
    return Call("JobService", "WatchJob", pb.WatchJobRequest(id=id), pb.WatchJobResponse)


def watched(message: Message) -> Job:
    """A job in a message of `watch`."""
    assert isinstance(message, pb.WatchJobResponse)
    return _job(message.job)


def _data_to_wire(data: str | tuple[str, float]) -> pb.TrainData:
    return pb.TrainData(name=data) if isinstance(data, str) else pb.TrainData(name=data[0], weight=data[1])


def _row_to_wire(row: TrainRow | TrainText) -> pb.TrainRow:
    if isinstance(row, TrainText):
        return pb.TrainRow(text=row.text, target=row.target, split=row.split)
    answers = [
        pb.TrainAnswer(text=each) if isinstance(each, str) else pb.TrainAnswer(text=each[0], weight=each[1])
        for each in row.answers
    ]
    return pb.TrainRow(
        name=row.name,
        image=image_to_wire(row.image),
        captions=row.captions,
        captions_zh=row.captions_zh,
        question=row.question,
        answers=answers,
        type=row.type,
        split=row.split,
        set=row.set,
        identity=row.identity,
    )


def _job(job: pb.Job) -> Job:
    train = job.train
    return Job(
        id=job.id,
        state=_FROM_WIRE[job.state],
        create_time=job.create_time.ToDatetime(tzinfo=UTC),
        start_time=_time(job.start_time if job.HasField("start_time") else None),
        end_time=_time(job.end_time if job.HasField("end_time") else None),
        recipe=train.task.recipe,
        settings=tuple(train.task.settings),
        model=train.task.model,
        data=tuple(each.name for each in train.task.data),
        progress=_progress(train.progress) if train.HasField("progress") else None,
        result=_result(train.result) if train.HasField("result") else None,
        error=from_status(job.error) if job.HasField("error") else None,
    )


def _time(stamp: Timestamp | None) -> datetime | None:
    return None if stamp is None else stamp.ToDatetime(tzinfo=UTC)


def _progress(progress: pb.TrainProgress) -> TrainProgress:
    return TrainProgress(
        step=progress.step,
        num_steps=progress.num_steps,
        loss=progress.loss,
        losses=dict(progress.losses),
        metrics=dict(progress.metrics),
        metrics_step=progress.metrics_step,
        step_seconds=progress.step_time.ToTimedelta().total_seconds(),
        remaining_seconds=progress.remaining_time.ToTimedelta().total_seconds(),
    )


def _result(result: pb.TrainResult) -> TrainResult:
    return TrainResult(result.model, tuple(result.tasks), dict(result.metrics))
