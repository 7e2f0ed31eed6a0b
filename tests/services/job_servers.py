"""Servers of training jobs, and a user's rows for them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from finetuning_runs import read_rows, save_start, settings, write_rows
from mplug_services.client import AsyncClient, RetryPolicy, TrainRow
from mplug_services.config import ServeConfig
from mplug_services.engine import ModelWorker
from mplug_services.runners.models import Models
from mplug_services.server import Server, make_scheduler, running_server
from mplug_services.work import EngineStoppedError
from services.serving import NO_MODELS, serve_config

SERVICES = ("embedding", "index", "search", "caption", "vqa", "rerank", "job", "model")


def job_config(folder: Path, **changes: Any) -> ServeConfig:
    """Settings without a model, and with one job root, `files`."""
    (folder / "files").mkdir(exist_ok=True)
    roots = (f"files={folder / 'files'}",)
    values: dict[str, Any] = {"services": SERVICES, "model": "", "job_roots": roots, **changes}
    return serve_config(folder, **values)


@asynccontextmanager
async def job_server(folder: Path, **changes: Any) -> AsyncIterator[tuple[Server, AsyncClient]]:
    """A real server without models of its own, and a client."""
    async with (
        running_server(job_config(folder, **changes)) as server,
        AsyncClient(server.address) as client,
    ):
        yield server, client


def save_files(folder: Path) -> Path:
    """The job root: a model to start from in `start`, and rows with their pictures in `rows`."""
    files = folder / "files"
    (files / "rows").mkdir(parents=True, exist_ok=True)
    save_start(files / "start")
    write_rows(files / "rows")
    return files


def sent_rows(file: Path) -> list[TrainRow]:
    """Rows of a file as a client sends them."""
    return [
        TrainRow(
            image=file.parent / row["image"],
            name=row["image"],
            captions=row["captions"],
            question=row["question"],
            answers=row["answers"],
            type=row["type"],
            split=row["split"],
        )
        for row in read_rows(file)
    ]


def toy_settings(*more: str) -> list[str]:
    """As `settings`, from the start under the job root."""
    return settings(Path("files/start"), *more)


@asynccontextmanager
async def idle_job_server(folder: Path, **changes: Any) -> AsyncIterator[tuple[Server, AsyncClient]]:
    """The same, whose engine never is ready: jobs are taken in, and none is begun."""
    never = threading.Event()

    def load() -> Models:
        never.wait()
        raise EngineStoppedError("the test is over")

    config = job_config(folder, **changes)
    engine = ModelWorker(load, make_scheduler(config))
    async with running_server(config, engine=engine, wait=False) as server:
        try:
            async with AsyncClient(server.address, retry=RetryPolicy(max_attempts=1)) as client:
                yield server, client
        finally:
            never.set()


SCRIPT = """
import asyncio, json, sys
from mplug_services.config import load_config
from mplug_services.server import serve

flags = json.loads(sys.argv[1])
asyncio.run(serve(load_config(flags, environment={}), ready=lambda server: print(server.address, flush=True)))
"""


@asynccontextmanager
async def job_server_process(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, AsyncClient]]:
    """The same in a process of its own; ended by SIGTERM unless it is dead."""
    flags = {
        "port": 0,
        "data_dir": str(folder / "data"),
        "services": ",".join(SERVICES),
        "model": "",
        **NO_MODELS,
        "job_roots": f"files={folder / 'files'}",
        "torch_threads": 1,
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(flags)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), 50)).decode().strip()
        assert address, "the server did not start"
        async with AsyncClient(address, retry=RetryPolicy(max_attempts=1)) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.terminate()
        code = await asyncio.wait_for(process.wait(), 40)
        assert code in (0, -signal.SIGKILL), code
