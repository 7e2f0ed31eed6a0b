"""JobService of a real server, without any training: what is taken in, refused, listed, watched and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from mplug_api.v1 import common_pb2
from mplug_api.v1 import job_service_pb2 as pb
from mplug_api.v1.job_service_pb2_grpc import JobServiceStub
from mplug_services.client import (
    AlreadyExistsError,
    AsyncClient,
    Client,
    ClientError,
    InvalidRequestError,
    JobState,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    TrainRow,
)
from mplug_services.server import Server
from services.job_servers import idle_job_server, save_files, sent_rows, toy_settings
from services.serving import fields_of, image_input, picture, poll, reason_of, status_of

Code = grpc.StatusCode
RECIPE = "finetune-captioning"
ROW = TrainRow(image=picture(1), captions=["piece10"])


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[tuple[Server, AsyncClient]]:
    save_files(tmp_path)
    async with idle_job_server(tmp_path) as both:
        yield both


def train_options(**values: Any) -> pb.CreateJobRequest:
    task = pb.TrainTask(**{"recipe": RECIPE, "settings": ["start=files/start"], **values})
    return pb.CreateJobRequest(options=pb.JobOptions(train=task))


def row(**values: Any) -> pb.CreateJobRequest:
    given = {"image": image_input(1), "captions": ["piece10"], **values}
    return pb.CreateJobRequest(train_row=pb.TrainRow(**given))


async def refusal(server: Server, requests: Sequence[pb.CreateJobRequest]) -> Any:
    """The status of a CreateJob that fails. Any: its details."""
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = JobServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failed:
            await stub.CreateJob(iter(requests))
    return failed.value.code(), status_of(failed.value)


async def test_a_job_is_taken_in_with_its_rows(idle: tuple[Server, AsyncClient], tmp_path: Path) -> None:
    _, client = idle
    rows = sent_rows(tmp_path / "files" / "rows" / "rows.jsonl")
    job = await client.jobs.train(RECIPE, rows, settings=toy_settings(), model="mine")
    assert (job.state, job.recipe, job.model) == (JobState.QUEUED, RECIPE, "mine")
    assert job.settings[0] == "start=files/start"
    assert (job.progress, job.result, job.error, job.start_time) == (None, None, None, None)
    assert await client.jobs.get(job.id) == job
    folder = tmp_path / "data" / "jobs" / job.id / "data"
    assert {each.name for each in folder.glob("*.png")} == {each.name for each in rows}
    assert (folder / "3.png").read_bytes() == (tmp_path / "files" / "rows" / "3.png").read_bytes()
    assert "mplug_api.v1.JobService" in (await client.server_info()).services
    assert not list((tmp_path / "data" / "jobs" / "incoming").iterdir())


async def test_pictures_under_the_image_root_are_named(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with idle_job_server(tmp_path, image_root=tmp_path / "files" / "rows") as (server, client):
        named = pb.TrainRow(image=common_pb2.ImageInput(uri="3.png"), captions=["piece10"], name="a/3.png")
        async with aio.insecure_channel(server.address) as channel:
            stub: Any = JobServiceStub(channel)
            answer = await stub.CreateJob(iter([train_options(), pb.CreateJobRequest(train_row=named)]))
        kept = tmp_path / "data" / "jobs" / answer.job.id / "data" / "a" / "3.png"
        assert kept.read_bytes() == (tmp_path / "files" / "rows" / "3.png").read_bytes()
        stolen = row(image=common_pb2.ImageInput(uri="../start/config.json"))
        code, status = await refusal(server, [train_options(), stolen])
        assert (code, fields_of(status)) == (Code.INVALID_ARGUMENT, ["rows[0].image"])
        assert [job.id for job in await client.jobs.list()] == [answer.job.id]


async def test_a_request_that_is_repeated_makes_one_job(idle: tuple[Server, AsyncClient]) -> None:
    _, client = idle
    settings = ["start=files/start"]
    first = await client.jobs.train(RECIPE, [ROW], settings=settings, request_id="once")
    assert await client.jobs.train(RECIPE, [ROW], settings=settings, request_id="once") == first
    assert await client.jobs.train("dance", [ROW], request_id="once") == first
    together = await asyncio.gather(
        *(client.jobs.train(RECIPE, [ROW] * 40, settings=settings, request_id="twice") for _ in range(4))
    )
    assert len({job.id for job in together}) == 1
    assert len(await client.jobs.list()) == 2


WRONG: list[tuple[list[pb.CreateJobRequest], Code, str, list[str]]] = [
    ([], Code.INVALID_ARGUMENT, "NO_OPTIONS", ["options"]),
    ([row()], Code.INVALID_ARGUMENT, "NO_OPTIONS", ["options"]),
    ([train_options(), train_options()], Code.INVALID_ARGUMENT, "NO_ROW", ["train_row"]),
    (
        [pb.CreateJobRequest(options=pb.JobOptions(request_id="x"))],
        Code.INVALID_ARGUMENT,
        "NO_TASK",
        ["options.task"],
    ),
    (
        [pb.CreateJobRequest(options=pb.JobOptions(request_id="x" * 200))],
        Code.INVALID_ARGUMENT,
        "INVALID_ID",
        ["options.request_id"],
    ),
    ([train_options()], Code.INVALID_ARGUMENT, "NO_ROWS", ["rows"]),
    (
        [train_options(recipe="dance")],
        Code.INVALID_ARGUMENT,
        "UNKNOWN_RECIPE",
        ["options.train.recipe"],
    ),
    (
        [train_options(settings=["start=files/start", "epochs=x"])],
        Code.INVALID_ARGUMENT,
        "BAD_SETTING",
        ["options.train.settings[1]"],
    ),
    (
        [train_options(settings=["start=/etc"])],
        Code.PERMISSION_DENIED,
        "DATA_ACCESS_DENIED",
        ["options.train.settings[0]"],
    ),
    ([train_options(model="../x")], Code.INVALID_ARGUMENT, "INVALID_NAME", ["options.train.model"]),
    ([train_options(model="mplug-mini")], Code.ALREADY_EXISTS, "MODEL_EXISTS", []),
    (
        [train_options(data=[pb.TrainData(name="files/../../etc/passwd")])],
        Code.PERMISSION_DENIED,
        "DATA_ACCESS_DENIED",
        ["options.train.data[0].name"],
    ),
    ([train_options(data=[pb.TrainData(name="files/gone")])], Code.NOT_FOUND, "DATA_NOT_FOUND", []),
    (
        [train_options(data=[pb.TrainData(name="files/rows/rows.jsonl", weight=-1)])],
        Code.INVALID_ARGUMENT,
        "INVALID_WEIGHT",
        ["options.train.data[0].weight"],
    ),
    (
        [train_options(data=[pb.TrainData(name="files/rows/rows.jsonl")]), row()],
        Code.INVALID_ARGUMENT,
        "TWO_DATA",
        ["options.train.data"],
    ),
    (
        [train_options(recipe="mplug-mini", settings=[]), row()],
        Code.INVALID_ARGUMENT,
        "NO_DATA",
        ["options.train.data"],
    ),
]
"""What a client may send, and the code, reason and fields that it is refused with."""


async def test_what_is_wrong_is_named_before_anything_is_kept(
    idle: tuple[Server, AsyncClient], tmp_path: Path
) -> None:
    server, client = idle
    for requests, code, reason, fields in WRONG:
        found, status = await refusal(server, requests)
        assert (found, reason_of(status)) == (code, reason), reason
        if fields:
            assert fields_of(status) == fields
        assert str(tmp_path) not in str(status), "no path is told"
    assert await client.jobs.list() == []
    assert [each.name for each in (tmp_path / "data" / "jobs").iterdir() if each.is_dir()] == ["incoming"]
    assert not list((tmp_path / "data" / "jobs" / "incoming").iterdir())


async def test_all_bad_rows_are_named_together(idle: tuple[Server, AsyncClient]) -> None:
    server, client = idle
    bad = [
        row(),
        row(captions=[]),
        row(image=common_pb2.ImageInput(data=b"no picture")),
        row(image=common_pb2.ImageInput(data=picture(1, kind="JPEG")[:60])),
        row(image=common_pb2.ImageInput()),
        row(name="/etc/passwd"),
        row(image=common_pb2.ImageInput(data=b""), captions=[" "]),
    ]
    code, status = await refusal(server, [train_options(), *bad])
    assert (code, reason_of(status)) == (Code.INVALID_ARGUMENT, "BAD_ROWS")
    assert fields_of(status) == [
        *("rows[1].captions", "rows[2].image", "rows[3].image", "rows[4].image", "rows[5].name"),
        *("rows[6].captions", "rows[6].image"),
    ]
    endless = [train_options(), *(row(captions=[]) for _ in range(5000))]
    _, status = await refusal(server, endless)
    assert 20 <= len(fields_of(status)) < 100, "it is not read to its end"
    assert await client.jobs.list() == []


async def test_a_file_that_cannot_be_read_is_the_client_s_own_error(
    idle: tuple[Server, AsyncClient], tmp_path: Path
) -> None:
    server, client = idle
    rows = [ROW, TrainRow(image=tmp_path / "gone.png", captions=["a"])]
    with pytest.raises(InvalidRequestError, match=r"rows\[1\]: .*gone.png cannot be read"):
        await client.jobs.train(RECIPE, rows, settings=["start=files/start"])

    def blocking() -> None:
        with Client(server.address) as other, pytest.raises(InvalidRequestError, match=r"rows\[1\]"):
            other.jobs.train(RECIPE, rows, settings=["start=files/start"])

    await asyncio.to_thread(blocking)
    assert await client.jobs.list() == []
    with pytest.raises(InvalidRequestError, match="either rows, or data"):
        await client.jobs.train(RECIPE)


async def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with idle_job_server(tmp_path, max_queued_jobs=2) as (server, client):
        first = await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"])
        async with aio.insecure_channel(server.address) as channel:
            stub: Any = JobServiceStub(channel)
            call = stub.CreateJob()
            await call.write(train_options())
            # A job on its way has its place.
            await poll(lambda: any((tmp_path / "data" / "jobs" / "incoming").iterdir()), "the upload")
            with pytest.raises(OverloadedError) as refused:
                await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"])
            assert refused.value.retry_delay is not None
            assert refused.value.retry_delay >= 1
            assert refused.value.reason == "QUEUE_FULL"
            call.cancel()
            await poll(lambda: not any((tmp_path / "data" / "jobs" / "incoming").iterdir()), "its end")
        second = await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"])
        await client.jobs.cancel(first.id)
        await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"])
        assert second.id in [job.id for job in await client.jobs.list([JobState.QUEUED])]


async def test_too_much_data_is_refused(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with idle_job_server(tmp_path, max_job_bytes=2 * len(picture(1))) as (server, _):
        code, status = await refusal(server, [train_options(), *[row()] * 50])
        assert (code, reason_of(status)) == (Code.INVALID_ARGUMENT, "DATA_TOO_LARGE")
        assert not list((tmp_path / "data" / "jobs" / "incoming").iterdir())


async def test_jobs_are_listed_in_pages(idle: tuple[Server, AsyncClient]) -> None:
    server, client = idle
    made = [
        (await client.jobs.train(RECIPE, data=["files/rows/rows.jsonl"], settings=["start=files/start"])).id
        for _ in range(5)
    ]
    await client.jobs.cancel(made[1])
    assert [job.id for job in await client.jobs.list()] == made[::-1]
    assert [job.id for job in await client.jobs.list([JobState.CANCELLED])] == [made[1]]
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = JobServiceStub(channel)
        seen, token = [], ""
        while True:
            page = await stub.ListJobs(pb.ListJobsRequest(page_size=2, page_token=token))
            seen.append([job.id for job in page.jobs])
            token = page.next_page_token
            if not token:
                break
        assert seen == [made[:2:-1], made[2:0:-1], made[:1]]
        for bad, field in [
            (pb.ListJobsRequest(page_size=-1), "page_size"),
            (pb.ListJobsRequest(page_token="x"), "page_token"),
            (pb.ListJobsRequest(states=[pb.JOB_STATE_UNSPECIFIED]), "states[0]"),
        ]:
            with pytest.raises(aio.AioRpcError) as failed:
                await stub.ListJobs(bad)
            assert fields_of(status_of(failed.value)) == [field]


async def test_a_job_that_waits_is_watched_and_cancelled(
    idle: tuple[Server, AsyncClient], tmp_path: Path
) -> None:
    _, client = idle
    job = await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"], model="mine")
    states: asyncio.Queue[JobState] = asyncio.Queue()

    async def watch() -> None:
        async for each in client.jobs.watch(job.id):
            states.put_nowait(each.state)

    watching = asyncio.create_task(watch())
    assert await states.get() is JobState.QUEUED
    with pytest.raises(AlreadyExistsError, match="'mine' is the model of job"):
        await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"], model="mine")
    cancelled = await client.jobs.cancel(job.id)
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.end_time is not None
    assert await states.get() is JobState.CANCELLED
    await watching
    assert await client.jobs.cancel(job.id) == cancelled, "cancelling again changes nothing"
    assert not (tmp_path / "data" / "jobs" / job.id / "data").exists()
    assert (await client.jobs.wait(job.id)).state is JobState.CANCELLED
    await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"], model="mine")


async def test_what_is_not_there_is_not_found(idle: tuple[Server, AsyncClient]) -> None:
    _, client = idle
    with pytest.raises(NotFoundError):
        await client.jobs.get("gone")
    with pytest.raises(NotFoundError):
        await client.jobs.cancel("gone")
    with pytest.raises(NotFoundError):
        await client.jobs.wait("../../etc")
    for ask in (
        client.caption([picture(1)], model="gone"),
        client.embed_texts(["a"], model="gone"),
        client.search("pets", text="a", model="gone"),
    ):
        with pytest.raises(NotFoundError) as refused:
            await ask
        assert refused.value.reason == "MODEL_NOT_FOUND"


async def test_a_server_that_stops_ends_what_is_watched(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with idle_job_server(tmp_path) as (server, client):
        job = await client.jobs.train(RECIPE, [ROW], settings=["start=files/start"])
        watching = client.jobs.watch(job.id)
        assert (await anext(watching)).state is JobState.QUEUED
        server.begin_drain()
        with pytest.raises(ClientError) as ended:
            await anext(watching)
        assert (ended.value.code, ended.value.reason) == ("UNAVAILABLE", "DRAINING")
    async with idle_job_server(tmp_path) as (_, client):
        assert [each.id for each in await client.jobs.list()] == [job.id]


async def test_both_clients_do_the_same(idle: tuple[Server, AsyncClient], tmp_path: Path) -> None:
    server, client = idle
    data: list[str | tuple[str, float]] = ["files/rows/rows.jsonl", ("files/rows/rows.jsonl", 2.0)]
    settings = ["start=files/start"]

    def blocking() -> Any:
        with Client(server.address) as other:
            job = other.jobs.train(RECIPE, data=data, settings=settings, request_id="r")
            watched = next(iter(other.jobs.watch(job.id)))
            assert watched == other.jobs.get(job.id) == other.jobs.list()[0]
            with pytest.raises(PermissionDeniedError):
                other.jobs.train(RECIPE, data=["/etc/passwd"], settings=settings)
            cancelled = other.jobs.cancel(job.id)
            assert other.jobs.wait(job.id) == cancelled
            return job

    job = await asyncio.to_thread(blocking)
    assert job.data == ("files/rows/rows.jsonl", "files/rows/rows.jsonl")
    assert (await client.jobs.train(RECIPE, data=data, settings=settings, request_id="r")).id == job.id
