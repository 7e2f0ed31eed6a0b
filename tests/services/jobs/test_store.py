"""The jobs of a folder: whole or not there, whenever the process dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from mplug_index.errors import DatabaseLockedError
from mplug_services.errors import Failure, ServiceError
from mplug_services.jobs.records import (
    DataName,
    JobRecord,
    JobState,
    TrainProgress,
    TrainResult,
    TrainSpec,
    from_json,
    to_json,
)
from mplug_services.jobs.store import JobStore

SPEC = TrainSpec(
    recipe="finetune-captioning",
    settings=("start=files/start", "epochs=3"),
    model="mine",
    data=(DataName("files/rows.jsonl", 2.0),),
)


def record(id: str, *, model: str = "", request_id: str = "") -> JobRecord:
    spec = replace(SPEC, model=model or f"model-{id}")
    return JobRecord(id=id, number=0, request_id=request_id, spec=spec, create_time=1.5)


def add(store: JobStore, new: JobRecord) -> JobRecord:
    folder = store.make_incoming()
    (folder / "data").mkdir()
    (folder / "data" / "a.png").write_bytes(b"picture")
    return store.add(new, folder)


def test_a_record_is_read_as_it_was_written() -> None:
    whole = JobRecord(
        id="a",
        number=3,
        request_id="r",
        state=JobState.FAILED,
        spec=SPEC,
        create_time=1.0,
        start_time=2.0,
        end_time=3.0,
        progress=TrainProgress(step=2, num_steps=9, losses={"x": 1.5}, metrics={"cider": 2.0}),
        result=TrainResult(folder="output/output_best", tasks=("caption",), metrics={"cider": 2.0}),
        error=Failure(code=grpc.StatusCode.INTERNAL, reason="R", message="m", violations={"a": "b"}),
    )
    for each in (whole, record("b")):
        assert from_json(to_json(each)) == each


def test_jobs_are_there_again_and_those_that_ran_wait(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    for id in ("a", "b", "c"):
        add(store, record(id))
    store.change("a", state=JobState.SUCCEEDED)
    store.change("b", state=JobState.RUNNING, start_time=4.0)
    store.note("b", TrainProgress(step=5, num_steps=10))
    store.close()
    again = JobStore(tmp_path / "jobs")
    assert [(each.id, each.number, each.state) for each in again.all()] == [
        ("a", 1, JobState.SUCCEEDED),
        ("b", 2, JobState.QUEUED),
        ("c", 3, JobState.QUEUED),
    ]
    assert add(again, record("d")).number == 4
    assert (again.folder("b") / "data" / "a.png").read_bytes() == b"picture"
    assert not (again.folder("a") / "data").exists(), "what an ended job does not need is gone"
    again.close()


def test_a_job_that_has_ended_stays_as_it_is(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    add(store, record("a"))
    assert store.change("a", state=JobState.CANCELLED).state is JobState.CANCELLED
    assert store.change("a", state=JobState.SUCCEEDED).state is JobState.CANCELLED
    store.note("a", TrainProgress(step=1))
    assert store.get("a").progress is None
    store.close()


def test_a_request_makes_one_job(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    first = add(store, record("a", request_id="r"))
    assert add(store, record("b", request_id="r")) == first
    assert [each.id for each in store.all()] == ["a"]
    add(store, record("c"))
    add(store, record("d"))
    assert len(store.all()) == 3, "no request id is no request id"
    store.close()


def test_a_name_is_taken_while_there_is_a_model_or_will_be(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    add(store, record("a", model="mine"))
    with pytest.raises(ServiceError, match="'mine' is the model of job a"):
        add(store, record("b", model="mine"))
    store.change("a", state=JobState.FAILED)
    add(store, record("c", model="mine"))
    store.change("c", state=JobState.SUCCEEDED)
    with pytest.raises(ServiceError) as refused:
        store.check_model("mine")
    assert refused.value.failure.code is grpc.StatusCode.ALREADY_EXISTS
    store.close()


def test_what_was_on_its_way_is_gone_and_what_is_no_job_is_left_alone(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    folder = store.make_incoming()
    (folder / "half").write_text("half")
    (tmp_path / "jobs" / "strange").mkdir()
    (tmp_path / "jobs" / "strange" / "job.json").write_text("{}")
    store.close()
    again = JobStore(tmp_path / "jobs")
    assert not folder.exists()
    assert again.all() == []
    assert (tmp_path / "jobs" / "strange" / "job.json").exists()
    again.close()


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    with pytest.raises(DatabaseLockedError):
        JobStore(tmp_path / "jobs")
    store.close()
    JobStore(tmp_path / "jobs").close()


def test_a_job_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    with pytest.raises(ServiceError) as refused:
        store.get("../../etc")
    assert refused.value.failure.code is grpc.StatusCode.NOT_FOUND
    store.close()


SCRIPT = """
import sys
from pathlib import Path
from mplug_services.jobs.records import JobRecord, JobState, TrainSpec
from mplug_services.jobs.store import JobStore

store = JobStore(Path(sys.argv[1]))
for number in range(100_000):
    folder = store.make_incoming()
    (folder / "data").mkdir()
    (folder / "data" / "rows").write_text("row\\n" * 1000)
    id = f"job{number}"
    spec = TrainSpec(recipe="r", model=id)
    store.add(JobRecord(id=id, number=0, request_id=id, spec=spec, create_time=0.0), folder)
    store.change(id, state=JobState.RUNNING)
    print(id, flush=True)
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "jobs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acked = [process.stdout.readline().strip() for _ in range(20)]
        time.sleep(0.003)  # anywhere within the next one
        process.send_signal(signal.SIGKILL)
        acked += process.stdout.read().split()
    store = JobStore(tmp_path / "jobs")
    there = [each.id for each in store.all()]
    assert there[: len(acked)] == acked
    assert len(there) <= len(acked) + 1
    for each in store.all():
        assert each.state is JobState.QUEUED
        assert (store.folder(each.id) / "data" / "rows").read_text() == "row\n" * 1000
        assert json.loads((store.folder(each.id) / "job.json").read_text())["id"] == each.id
    store.close()
