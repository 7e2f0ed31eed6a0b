"""The demo, from beginning to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mplug_services.cli import answers_sheet
from mplug_services.cli.contact_sheet import HEADER, MARGIN, QUERY_WIDTH, ROW
from mplug_services.cli.demo_queries import PICTURES, QUERIES

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mplug_services.cli", "demo", "--output"]


def run_demo(output: Path) -> tuple[str, float]:
    started = time.monotonic()
    answer = subprocess.run(
        [*COMMAND, str(output)],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout, time.monotonic() - started


def test_the_demo_searches_captions_and_answers_and_a_second_run_takes_seconds(tmp_path: Path) -> None:
    first, _ = run_demo(tmp_path / "out")
    count = len((ROOT / "examples" / "gallery" / "gallery.jsonl").read_text().splitlines())
    assert f"{count} pictures found, {count} added" in first
    for query in QUERIES:
        assert query.text is None or query.text in first
    assert first.count("hits reranked)") == sum(query.reranked > 0 for query in QUERIES)
    assert " match " in first
    for each in PICTURES:
        assert first.count(Path(each.picture).stem) >= 2, "in the table of captions and in that of questions"
        assert all(question in first for question in each.questions)
    with Image.open(tmp_path / "out" / "contact-sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.height == HEADER + len(QUERIES) * ROW + MARGIN
        assert sheet.width > QUERY_WIDTH + 6 * 150
    with Image.open(tmp_path / "out" / "answers-sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > answers_sheet.HEADER + len(PICTURES) // answers_sheet.COLUMNS * 150
    assert "mplug ingest FOLDER" in first

    second, seconds = run_demo(tmp_path / "out")
    assert f"0 added, {count} were there already" in second
    assert seconds < 60


def test_ctrl_c_stops_the_demo_and_its_server(tmp_path: Path) -> None:
    # A suite that runs in the background has Ctrl-C ignored, and its children would inherit that.
    with subprocess.Popen(
        [*COMMAND, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("server ready at "):
                break
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(60) == 130
    # The data folder's lock is free again: the server is gone.
    run_demo(tmp_path / "out")
