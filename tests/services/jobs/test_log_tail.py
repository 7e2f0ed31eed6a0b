"""How far a run is, read from its log as it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mplug_services.errors import ServiceError
from mplug_services.jobs.log_tail import LogTail
from mplug_services.jobs.training import read_result, without_paths


def step(number: int, loss: float = 1.0) -> dict[str, Any]:
    return {"step": number, "loss": loss, "losses": {"a": loss}, "seconds_per_step": 0.5, "lr": {}}


def write(file: Path, *lines: dict[str, Any]) -> None:
    with file.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def tail(folder: Path) -> LogTail:
    (folder / "steps").write_text("20")
    return LogTail(folder / "log.jsonl", folder / "steps")


def test_it_follows_a_log(tmp_path: Path) -> None:
    log, follower = tmp_path / "log.jsonl", tail(tmp_path)
    assert follower.read() is None
    log.touch()
    assert follower.read() is None
    write(log, step(1, 3.0), step(2, 2.0))
    progress = follower.read()
    assert progress is not None
    assert (progress.step, progress.num_steps, progress.loss, progress.losses) == (2, 20, 2.0, {"a": 2.0})
    assert (progress.step_seconds, progress.remaining_seconds) == (0.5, 9.0)
    write(log, {"step": 3, "metrics": {"cider": 7.0}})
    progress = follower.read()
    assert progress is not None
    assert (progress.step, progress.metrics_step, progress.metrics) == (3, 3, {"cider": 7.0})
    assert follower.read() == progress


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    log, follower = tmp_path / "log.jsonl", tail(tmp_path)
    write(log, step(1))
    text = json.dumps(step(2)) + "\n"
    with log.open("a") as stream:
        stream.write(text[:20])
    progress = follower.read()
    assert progress is not None
    assert progress.step == 1
    with log.open("a") as stream:
        stream.write(text[20:])
    progress = follower.read()
    assert progress is not None
    assert progress.step == 2


def test_a_run_that_goes_on_begins_where_its_checkpoint_was(tmp_path: Path) -> None:
    log, follower = tmp_path / "log.jsonl", tail(tmp_path)
    write(log, step(1), {"step": 2, "metrics": {"cider": 7.0}}, step(7))
    follower.read()
    shorter = tmp_path / "log.tmp"
    write(shorter, step(1), step(3))
    shorter.replace(log)
    progress = follower.read()
    assert progress is not None
    assert (progress.step, progress.metrics) == (3, {})


def test_messages_name_no_path() -> None:
    said = "/srv/photos/2024/rows.jsonl, line 3: and/or 1/2 of 'x' (/opt/python/lib/site/a.py) see https://a.b/c/d"
    assert without_paths(said, [("/srv/photos", "photos")]) == (
        "photos/2024/rows.jsonl, line 3: and/or 1/2 of 'x' (a.py) see https://a.b/c/d"
    )


def test_a_process_that_says_nothing_is_told_by_its_signal(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="SIGKILL; its machine may be short of memory"):
        read_result(tmp_path, -9, [])
    (tmp_path / "result.json").write_text(json.dumps({"error": f"{tmp_path}/data/.rows.jsonl, line 3: bad"}))
    with pytest.raises(ServiceError, match=r"^rows, line 3: bad$"):
        read_result(tmp_path, 1, [])
