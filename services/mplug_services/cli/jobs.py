"""List, show, watch and cancel a server's jobs.

`mplug train … --server` makes one. Watching ends with the job; the job does not end with the watching.
"""

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.table import Table

from mplug_services.cli.common import (
    EXIT_FAILURE,
    EXIT_OK,
    UsageError,
    add_connection_arguments,
    connect,
    messages,
    progress_bar,
    results,
)
from mplug_services.client import Client, ClientError, Job, JobState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("action", choices=["list", "show", "watch", "cancel"])
    parser.add_argument("id", nargs="?", metavar="JOB", help="its id, or the beginning of it")
    parser.add_argument(
        "--state", action="append", default=[], choices=[str(state) for state in JobState], help="to list"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    if (options.id is None) != (options.action == "list"):
        raise UsageError("list takes no JOB, and the others take one")
    with connect(options) as client:
        if options.action == "list":
            jobs = client.jobs.list([JobState(state) for state in options.state])
            print(json.dumps([job_facts(job) for job in jobs])) if options.json else results().print(
                _table(jobs)
            )
            return EXIT_OK
        id = _whole_id(client, options.id)
        if options.action == "watch":
            return watch_job(client, id, as_json=options.json)
        job = client.jobs.cancel(id) if options.action == "cancel" else client.jobs.get(id)
    print(json.dumps(job_facts(job), indent=None if options.json else 2, ensure_ascii=False))
    return EXIT_OK


def watch_job(client: Client, id: str, *, as_json: bool) -> int:
    """Shows how a job goes until it has ended; the exit code says how."""
    job = client.jobs.get(id)
    with progress_bar(messages()) as progress:
        bar = progress.add_task(str(job.state), total=None)
        for each in client.jobs.watch(id):
            job = each
            run = job.progress
            step, total = (run.step, run.num_steps) if run is not None else (0, None)
            progress.update(bar, description=_headline(job), completed=step, total=total)
    if as_json:
        print(json.dumps(job_facts(job), ensure_ascii=False))
    elif job.result is not None:
        print(f"model {job.result.model}, for {', '.join(job.result.tasks)}")
        print("\n".join(f"  {name}: {value:.4g}" for name, value in job.result.metrics.items()))
    else:
        messages().print(f"job {id} {job.state}: {job.error or 'nothing came out'}", markup=False)
    return EXIT_OK if job.state is JobState.SUCCEEDED else EXIT_FAILURE


def job_facts(job: Job) -> dict[str, Any]:
    """A job as JSON values."""
    facts = {**asdict(job), "state": str(job.state), "error": _error(job.error)}
    return {
        name: value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
        for name, value in facts.items()
    }


def _error(error: ClientError | None) -> dict[str, str] | None:
    return None if error is None else {"code": error.code, "reason": error.reason, "message": error.message}


def _headline(job: Job) -> str:
    return f"{job.state}, loss {job.progress.loss:.3f}" if job.progress is not None else str(job.state)


def _whole_id(client: Client, given: str) -> str:
    found = [job.id for job in client.jobs.list() if job.id.startswith(given)]
    if len(found) > 1 and given not in found:
        raise UsageError(f"{len(found)} jobs begin with {given}; give more of the id")
    return found[0] if len(found) == 1 else given


def _table(jobs: list[Job]) -> Table:
    table = Table("job", "state", header_style="bold")
    for column in ("recipe", "model"):
        table.add_column(column, overflow="fold")
    for column in ("step", "begun"):
        table.add_column(column, no_wrap=True)
    for job in jobs:
        step = f"{job.progress.step}/{job.progress.num_steps}" if job.progress is not None else ""
        begun = job.create_time.isoformat(sep=" ", timespec="minutes")[:16]
        table.add_row(job.id[:8], str(job.state), job.recipe, job.model, step, begun)
    return table
