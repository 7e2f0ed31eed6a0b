"""A user's pictures through JobService: trained in a process of its own, served at once, answered as evaluated."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import mplug
from finetuning_runs import DEV, losses, metrics, read_rows, save_rows, settings, train
from mplug.train.config import override
from mplug.train.experiments.finetuning import answering, captioning
from mplug.train.experiments.recipes import CaptionConfig, VqaConfig, finetune_captioning, finetune_vqa
from mplug_services.client import (
    AsyncClient,
    ClientError,
    FailedPreconditionError,
    IngestItem,
    Job,
    JobState,
    Question,
)
from services.job_servers import (
    job_server,
    job_server_process,
    save_files,
    sent_rows,
    toy_settings,
)
from services.serving import poll

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

ROWS = ["files/rows/rows.jsonl"]
LONG = toy_settings("epochs=12", "checkpoint_every=4")


def folder_of(folder: Path, job: Job) -> Path:
    return folder / "data" / "jobs" / job.id


async def watch_until(client: AsyncClient, id: str, wanted: Callable[[Job], bool]) -> Job:
    async for job in client.jobs.watch(id):
        if wanted(job):
            return job
    raise AssertionError("the job ended before that")


def evaluated_captions(data: Path, model: Path) -> Mapping[str, str]:
    """What the trainer's evaluation writes, by picture."""
    config: CaptionConfig = override(finetune_captioning(), settings(model))
    evaluator: Any = captioning(config, data).setup.evaluator
    written: Mapping[str, str] = evaluator.texts(mplug.load(model, task="caption"))
    return written


@pytest.mark.timeout(120)
async def test_sent_pictures_become_a_model_that_captions_as_it_was_evaluated(tmp_path: Path) -> None:
    data = save_files(tmp_path) / "rows" / "rows.jsonl"
    rows = sent_rows(data)
    async with job_server(tmp_path) as (_, client):
        made = await client.jobs.train("finetune-captioning", rows, settings=toy_settings(), model="mine")
        seen = [job async for job in client.jobs.watch(made.id)]
        job = seen[-1]
        assert job.state is JobState.SUCCEEDED, job.error
        assert made.state is JobState.QUEUED
        assert JobState.RUNNING in {each.state for each in seen}
        steps = [each.progress.step for each in seen if each.progress is not None]
        assert steps == sorted(steps)
        assert job.progress is not None
        assert (job.progress.step, job.progress.num_steps) == (24, 24)
        assert list(job.progress.losses) == ["caption_loss"]

        output = folder_of(tmp_path, job) / "output"
        best = max(metrics(output), key=lambda each: each["cider"])
        assert job.result is not None
        assert (job.result.model, job.result.tasks, dict(job.result.metrics)) == ("mine", ("caption",), best)
        evaluated = evaluated_captions(data, output / "output_best")
        pictures = {row.name: row.image for row in rows if row.name in evaluated}
        answers = await client.caption(list(pictures.values()), model="mine")
        assert {name: each.text for name, each in zip(pictures, answers, strict=True)} == evaluated
        assert len(evaluated) == DEV
        assert len(set(evaluated.values())) > 1

        info = await client.server_info()
        assert [(model.name, model.task) for model in info.models] == [("mine", "caption")]
        with pytest.raises(FailedPreconditionError, match="start it with caption_model set"):
            await client.caption(list(pictures.values()))
        with pytest.raises(FailedPreconditionError, match="'mine' answers no questions; it is for caption"):
            await client.answer([Question(rows[0].image, "what?")], model="mine")
        with pytest.raises(FailedPreconditionError, match="succeeded already"):
            await client.jobs.cancel(job.id)
        kept = {each.name for each in folder_of(tmp_path, job).iterdir()}
        assert "data" not in kept, "what only an unfinished job needs is gone"
        assert not (output / "checkpoints").exists()

    # Sending is training: the same rows, trained on by the command, come to the same.
    whole = tmp_path / "whole"
    assert train("finetune-captioning", data, whole, settings(tmp_path / "files" / "start")) == 0
    assert losses(output) == losses(whole)
    assert metrics(output) == metrics(whole)

    async with job_server(tmp_path) as (_, client):
        again = await client.caption(list(pictures.values()), model="mine")
        assert [each.text for each in again] == [each.text for each in answers], "a new server has it, too"


@pytest.mark.timeout(180)
async def test_questions_and_searches_are_learned_from_what_the_server_has(tmp_path: Path) -> None:
    files = save_files(tmp_path)
    data = files / "rows" / "rows.jsonl"
    rows = sent_rows(data)
    async with job_server(tmp_path, max_named_models=1) as (_, client):
        asked = await client.jobs.train("finetune-vqa", data=ROWS, settings=toy_settings(), model="answers")
        more = toy_settings("epochs=1", "objective.contrast.queue_size=12")
        found = await client.jobs.train("finetune-retrieval", data=ROWS, settings=more, model="finds")
        queued = await client.jobs.get(found.id)
        assert queued.state is JobState.QUEUED, "one at a time"
        answered, searched = await client.jobs.wait(asked.id), await client.jobs.wait(found.id)
        assert answered.result is not None, answered.error
        assert searched.result is not None, searched.error
        assert (answered.result.tasks, searched.result.tasks) == (("vqa",), ("retrieval", "rerank"))

        model = folder_of(tmp_path, answered) / "output" / "output_best"
        config: VqaConfig = override(finetune_vqa(), settings(model))
        evaluator: Any = answering(config, data).setup.evaluator
        evaluated = evaluator.texts(mplug.load(model, task="vqa"))
        questions = [Question(row.image, row.question) for row in rows[:DEV]]
        # By now the other model is the one in memory: this one comes back.
        served = await client.answer(questions, model="answers")
        assert [each.text for each in served] == list(evaluated.values())

        pictures = [IngestItem(row.name, row.image) for row in rows[:8]]
        outcomes = [each async for each in client.ingest("pets", pictures, model="finds")]
        assert [each.error for each in outcomes] == [None] * 8
        result = await client.search(
            "pets", text="piece10", model="finds", rerank_model="finds", rerank_top_k=3
        )
        assert (result.model.name, result.reranked_count) == ("finds", 3)
        (vector,) = await client.embed_texts(["piece10"], model="finds")
        assert vector.error is None
        judged = await client.rerank("piece10", [row.image for row in rows[:2]], model="finds")
        assert judged.reranked_count == 2
        assert {each.name for each in (await client.server_info()).models} == {"finds"}


@pytest.mark.timeout(180)
async def test_a_trained_model_is_trained_on(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with job_server(tmp_path) as (_, client):
        for model, start in [("first", "files/start"), ("second", "first")]:
            more = ["epochs=1", f"start={start}"]
            job = await client.jobs.train(
                "finetune-captioning",
                data=ROWS,
                settings=toy_settings(*more),
                model=model,
            )
            ended = await client.jobs.wait(job.id)
            assert ended.result is not None, ended.error
        first, second = (losses(folder_of(tmp_path, job) / "output") for job in await client.jobs.list())
        assert first[0] < second[0]


@pytest.mark.timeout(120)
async def test_a_job_is_cancelled_and_its_process_ends(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with job_server(tmp_path) as (_, client):
        job = await client.jobs.train("finetune-captioning", data=ROWS, settings=toy_settings("epochs=10000"))
        next_one = await client.jobs.train(
            "finetune-captioning", data=ROWS, settings=toy_settings("epochs=1")
        )
        await watch_until(client, job.id, lambda each: each.progress is not None)
        cancelled = await client.jobs.cancel(job.id)
        assert cancelled.state is JobState.CANCELLED
        folder = folder_of(tmp_path, job)
        assert _is_free(folder), "its process is gone when the answer comes"
        assert not (folder / "output" / "output_best").exists()
        assert (await client.jobs.wait(next_one.id)).state is JobState.SUCCEEDED, "the next one has its turn"
        assert (await client.jobs.get(job.id)).state is JobState.CANCELLED


@pytest.mark.timeout(120)
async def test_what_cannot_be_trained_on_is_named_by_row_and_no_path_is_told(tmp_path: Path) -> None:
    files = save_files(tmp_path)
    data = files / "rows" / "rows.jsonl"
    rows = read_rows(data)
    save_rows(files / "rows" / "bad.jsonl", [*rows[:6], rows[6] | {"captions": 7}, *rows[7:]])
    async with job_server(tmp_path, max_running_jobs=2) as (_, client):
        bad = await client.jobs.train(
            "finetune-captioning", data=["files/rows/bad.jsonl"], settings=toy_settings(), model="mine"
        )
        few = await client.jobs.train("finetune-captioning", sent_rows(data)[:8], settings=toy_settings())
        failed = await client.jobs.wait(bad.id)
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert failed.error.message == (
            "files/rows/bad.jsonl, line 7, field 'captions': 7 is no text; give one text or a list of texts."
        )
        assert (failed.error.code, failed.error.reason) == ("INVALID_ARGUMENT", "TRAINING_REFUSED")
        short = await client.jobs.wait(few.id)
        assert short.error is not None
        assert "lower batch_size" in short.error.message
        assert str(tmp_path) not in short.error.message
        with pytest.raises(ClientError, match="this server has no model 'mine' besides its own"):
            await client.caption([rows[0]["image"].encode()], model="mine")


@pytest.mark.timeout(120)
async def test_a_process_that_is_killed_harms_no_serving(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with job_server(tmp_path) as (_, client):
        first = await client.jobs.train(
            "finetune-captioning", data=ROWS, settings=toy_settings("epochs=1"), model="a"
        )
        job = await client.jobs.train("finetune-captioning", data=ROWS, settings=toy_settings("epochs=10000"))
        await client.jobs.wait(first.id)
        await watch_until(client, job.id, lambda each: each.progress is not None)
        os.kill(_pid(folder_of(tmp_path, job)), signal.SIGKILL)
        failed = await client.jobs.wait(job.id)
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert "SIGKILL" in failed.error.message
        picture = tmp_path / "files" / "rows" / "0.png"
        (caption,) = await client.caption([picture], model="a")
        assert caption.error is None


@pytest.mark.timeout(120)
async def test_a_server_that_is_stopped_goes_on_later(tmp_path: Path) -> None:
    save_files(tmp_path)
    async with job_server(tmp_path) as (_, client):
        job = await client.jobs.train("finetune-captioning", data=ROWS, settings=LONG)
        await watch_until(client, job.id, lambda each: each.progress is not None and each.progress.step >= 6)
    folder = folder_of(tmp_path, job)
    assert _is_free(folder)
    before = [line for line in (folder / "process.log").read_text().splitlines() if line.startswith("step ")]
    async with job_server(tmp_path) as (_, client):
        ended = await client.jobs.wait(job.id)
        assert ended.state is JobState.SUCCEEDED, ended.error
        assert ended.start_time is not None
        assert ended.start_time > job.create_time
    after = (folder / "process.log").read_text().splitlines()[len(before) :]
    assert not [line for line in after if line.startswith("step 1/")]
    assert len(losses(folder / "output")) == 72


@pytest.mark.timeout(240)
async def test_a_server_that_is_killed_goes_on_with_its_jobs(tmp_path: Path) -> None:
    data = save_files(tmp_path) / "rows" / "rows.jsonl"
    async with job_server_process(tmp_path) as (process, client):
        job = await client.jobs.train("finetune-captioning", sent_rows(data), settings=LONG, model="mine")
        waiting = await client.jobs.train("finetune-captioning", data=ROWS, settings=toy_settings("epochs=1"))
        await watch_until(client, job.id, lambda each: each.progress is not None and each.progress.step >= 10)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    folder = folder_of(tmp_path, job)
    await poll(lambda: _is_free(folder), "the job's process to follow its server")
    done = len(losses(folder / "output"))
    assert 10 <= done < 72
    assert json.loads((folder / "job.json").read_text())["state"] == "running"

    async with job_server_process(tmp_path) as (process, client):
        ended = await client.jobs.wait(job.id)
        assert ended.result is not None, ended.error
        assert (await client.jobs.wait(waiting.id)).state is JobState.SUCCEEDED
        picture = tmp_path / "files" / "rows" / "0.png"
        (caption,) = await client.caption([picture], model="mine")
        assert caption.error is None
        printed = (folder / "process.log").read_text()
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert "step 1/72" in printed
    assert printed.count("step 1/72 ") == 1, "the second process did not begin anew"

    whole = tmp_path / "whole"
    values = [each.replace("files/", f"{tmp_path}/files/") for each in LONG]
    assert await asyncio.to_thread(train, "finetune-captioning", data, whole, values) == 0
    assert losses(folder / "output") == losses(whole)
    assert metrics(folder / "output") == metrics(whole)
    assert dict(ended.result.metrics) == max(metrics(whole), key=lambda each: each["cider"])


def _is_free(folder: Path) -> bool:
    """Whether no process is at work on a job."""
    with (folder / "process.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _pid(folder: Path) -> int:
    """The process of a job, by its command."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        if str(folder) in process.cmdline():
            return int(process.pid)
    raise AssertionError("the job has no process")
