"""JobService: long work that clients ask for, watch and cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from grpc import aio

from mplug_api.v1 import job_service_pb2 as pb
from mplug_api.v1.job_service_pb2_grpc import JobServiceServicer
from mplug_services import wire
from mplug_services.blocking import BlockingPool
from mplug_services.config import ServeConfig
from mplug_services.errors import already_exists, invalid_argument
from mplug_services.image_reader import ImageReader
from mplug_services.job_parts import Jobs
from mplug_services.jobs.records import JobRecord
from mplug_services.jobs.rows import faults, has_picture
from mplug_services.jobs.training import TASK_FIELD, check_spec
from mplug_services.jobs.upload import Upload
from mplug_services.prepare import Preparer
from mplug_services.wire_job import read_options, read_row, read_states, write_job

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it
Requests = AsyncIterator[pb.CreateJobRequest]
Faults = list[tuple[str, str]]

DEFAULT_PAGE_SIZE = 100
ROWS_AT_ONCE = 16
"""Rows whose pictures are looked at together."""
LOOKED_AT_SIDE = 8
"""Pixels: pictures are decoded to see that they can be; what they become is dropped."""


class JobService(JobServiceServicer):
    """The servicer. RPC names are those of the API (N802).

    Args:
        jobs: the jobs, what they may read, and what runs them.
        reader: reads pictures that are named by uri.
        preparer: decodes them.
        pool: where blocking calls run.
        config: limits.
    """

    def __init__(
        self, jobs: Jobs, reader: ImageReader, preparer: Preparer, pool: BlockingPool, config: ServeConfig
    ) -> None:
        self._jobs = jobs
        self._store = jobs.store
        self._manager = jobs.manager
        self._reader = reader
        self._preparer = preparer
        self._pool = pool
        self._config = config

    async def CreateJob(  # noqa: N802
        self, request_iterator: Requests, context: Context
    ) -> pb.CreateJobResponse:
        """Take a job with its data in."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "options":
            raise invalid_argument("options", "the first message must carry the options", reason="NO_OPTIONS")
        record = read_options(first.options)
        known = self._store.by_request(record.request_id)
        if known is not None:
            return pb.CreateJobResponse(job=write_job(known))
        with self._manager.place():
            order = await self._pool.run(check_spec, record.spec, self._jobs.roots, self._jobs.find_model)
            await self._check_model(record)
            async with self._manager.incoming() as folder:
                if record.spec.data:
                    await _expect_no_rows(request_iterator)
                else:
                    upload = await self._pool.run_patiently(Upload, folder, self._config.max_job_bytes)
                    await self._receive(request_iterator, upload, order.row_task)
                added = await self._manager.add(record, folder)
        return pb.CreateJobResponse(job=write_job(added))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:  # noqa: N802
        """Say how a job stands."""
        return pb.GetJobResponse(job=write_job(self._store.get(request.id)))

    async def ListJobs(  # noqa: N802
        self, request: pb.ListJobsRequest, context: Context
    ) -> pb.ListJobsResponse:
        """Walk all jobs, the newest first."""
        size = wire.read_limited(
            request.page_size, "page_size", DEFAULT_PAGE_SIZE, self._config.max_page_size
        )
        states = read_states(request.states, "states")
        before = _read_token(request.page_token)
        found = [
            record
            for record in reversed(self._store.all())
            if record.state in states and (before is None or record.number < before)
        ]
        more = str(found[size - 1].number) if len(found) > size else ""
        return pb.ListJobsResponse(jobs=map(write_job, found[:size]), next_page_token=more)

    async def CancelJob(  # noqa: N802
        self, request: pb.CancelJobRequest, context: Context
    ) -> pb.CancelJobResponse:
        """End a job."""
        return pb.CancelJobResponse(job=write_job(await self._manager.cancel(request.id)))

    async def WatchJob(  # noqa: N802
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        """Follow a job to its end."""
        async with aclosing(self._manager.watch(request.id)) as records:
            async for record in records:
                yield pb.WatchJobResponse(job=write_job(record))

    async def _check_model(self, record: JobRecord) -> None:
        self._store.check_model(record.spec.model)
        if await self._pool.run(self._jobs.find_model, record.spec.model) is not None:
            raise already_exists(
                "MODEL_EXISTS", f"{TASK_FIELD}.model: this server has a model {record.spec.model!r} already"
            )

    async def _receive(self, requests: Requests, upload: Upload, task: str) -> None:
        """Take rows in, some at a time; raises what is wrong with them."""
        batch: list[pb.TrainRow] = []
        async for request in requests:
            if request.WhichOneof("message") != "train_row":
                raise invalid_argument(
                    "train_row", "after the first message, each must carry a row", reason="NO_ROW"
                )
            batch.append(request.train_row)
            if len(batch) == ROWS_AT_ONCE:
                await self._take(batch, upload, task)
                batch = []
        await self._take(batch, upload, task)
        await self._pool.run_patiently(upload.close)

    async def _take(self, batch: Sequence[pb.TrainRow], upload: Upload, task: str) -> None:
        read = [read_row(message) for message in batch]
        wrong = [[*faults(row, task)] for row in read]
        images: Sequence[bytes | None] = [None] * len(batch)
        if has_picture(task):
            images = await self._read_images(batch, wrong)
        else:
            _refuse_images(batch, wrong)
        await self._pool.run_patiently(upload.add, [*zip(read, images, wrong, strict=True)])

    async def _read_images(self, batch: Sequence[pb.TrainRow], wrong: Sequence[Faults]) -> list[bytes]:
        """The rows' pictures; what is wrong with them is added to what is wrong with the rows."""
        images = []
        for message, found in zip(batch, wrong, strict=True):
            try:
                images.append(await self._reader.read(wire.read_image(message.image, "image")))
            except Exception as error:
                images.append(b"")
                found.append(("image", str(error).removeprefix("image: ")))
        looked = await self._preparer.images(images, LOOKED_AT_SIDE)
        for found, outcome in zip(wrong, looked, strict=True):
            if isinstance(outcome, Exception) and not any(field == "image" for field, _ in found):
                found.append(("image", str(outcome)))
        return images


def _refuse_images(batch: Sequence[pb.TrainRow], wrong: Sequence[Faults]) -> None:
    for message, found in zip(batch, wrong, strict=True):
        if message.HasField("image"):
            found.append(("image", "the recipe learns from texts; send the row without a picture"))


async def _expect_no_rows(requests: Requests) -> None:
    async for _ in requests:
        raise invalid_argument(
            f"{TASK_FIELD}.data",
            "rows are named on the server and sent, too; do one of both",
            reason="TWO_DATA",
        )


def _read_token(token: str) -> int | None:
    if not token:
        return None
    if not token.isdecimal():
        raise invalid_argument(
            "page_token", "take it from the page before, as it is", reason="INVALID_PAGE_TOKEN"
        )
    return int(token)
