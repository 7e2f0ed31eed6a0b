"""A user's 200 pictures by the command line: trained and served here, and the same by a server's job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mplug
from finetuning_runs import COLOURS, metrics, read_rows, save_rows, save_start, settings, train
from mplug.train.config import override
from mplug.train.experiments.finetuning import captioning
from mplug.train.experiments.recipes import CaptionConfig, finetune_captioning
from mplug_services.cli import main
from mplug_services.cli.server_process import ServerProcess

Output = pytest.CaptureFixture[str]

pytestmark = [pytest.mark.long, pytest.mark.timeout(240), pytest.mark.usefixtures("one_thread")]

PICTURES = 200


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of squares, a caption each, a tenth of them to choose by."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(1)
    rows = []
    for number in range(PICTURES):
        word = 10 + number % 3
        pixels = chance.integers(100, 156, (40, 48, 3), dtype=np.uint8)
        pixels[2:30, 12:44] = COLOURS[word]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        caption = f"piece{word} piece20 piece{word + 20}"
        rows.append(
            {"image": f"{number}.png", "caption": caption, "split": "dev" if number < 20 else "train"}
        )
    return save_rows(folder / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


def evaluated(data: Path, model: Path) -> Mapping[str, str]:
    """What the trainer's evaluation writes, by picture."""
    config: CaptionConfig = override(finetune_captioning(), settings(model))
    evaluator: Any = captioning(config, data).setup.evaluator
    written: Mapping[str, str] = evaluator.texts(mplug.load(model, task="caption"))
    return written


def captions(data: Path, output: Path, *arguments: str) -> dict[str, str]:
    """What `mplug caption` writes of the rows that checkpoints are chosen by."""
    chosen = [row for row in read_rows(data) if row["split"] == "dev"]
    wanted = save_rows(data.parent / "dev.jsonl", [{"image": row["image"]} for row in chosen])
    assert main(["caption", str(wanted), "--output", str(output), *arguments]) == 0
    return {line["id"]: line["caption"] for line in map(json.loads, output.read_text().splitlines())}


def as_flags(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def test_two_hundred_pictures_become_a_model_that_is_served_as_it_was_evaluated(
    data: Path, start: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert train("finetune-captioning", data, output, settings(start, "epochs=2", "batch_size=12")) == 0
    best = max(metrics(output), key=lambda each: each["cider"])
    assert best["cider"] > 100
    expected = evaluated(data, output / "output_best")
    flags = ["--services", "caption", "--caption-model", str(output / "output_best")]
    with ServerProcess(tmp_path / "data", flags) as server:
        served = captions(data, tmp_path / "captions.jsonl", "--address", server.address)
    assert served == expected
    assert len(served) == 20
    assert len(set(served.values())) > 1


@pytest.fixture
def server(start: Path, data: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    flags = [
        "--services",
        "caption,job",
        "--caption-model",
        "",
        "--job-roots",
        f"mine={data.parent},starts={start.parent}",
    ]
    with ServerProcess(tmp_path / "data", flags) as process:
        yield process


def test_a_server_trains_and_serves_the_same(
    server: ServerProcess, data: Path, start: Path, tmp_path: Path, capsys: Output
) -> None:
    address = ["--address", server.address]
    values = settings(start, "epochs=2", "batch_size=12", f"start=starts/{start.name}")[1:]
    sent = [
        "train",
        "finetune-captioning",
        "--data",
        str(data),
        "--server",
        server.address,
        "--model",
        "sent",
    ]
    assert main([*sent, *as_flags(values)]) == 0
    printed = capsys.readouterr()
    assert "model sent, for caption" in printed.out
    assert "cider:" in printed.out
    assert "job " in printed.err

    named = ["train", "finetune-captioning", "--data", "server:mine/rows.jsonl", "--server", server.address]
    assert main([*named, "--model", "named", "--detach", *as_flags(values)]) == 0
    id = capsys.readouterr().out.strip()
    assert main(["jobs", "watch", id[:6], "--json", *address]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["id"], facts["state"], facts["result"]["model"]) == (id, "succeeded", "named")

    assert main(["jobs", "list", "--json", *address]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [job["model"] for job in listed] == ["named", "sent"]
    first, second = (job["result"]["metrics"] for job in listed)
    assert first == second, "rows that are sent are the rows that lie there"
    folder = tmp_path / "data" / "jobs" / listed[1]["id"] / "output" / "output_best"
    expected = evaluated(data, folder)
    for model in ("sent", "named"):
        output = tmp_path / f"{model}.jsonl"
        assert captions(data, output, "--served-model", model, *address) == expected
    capsys.readouterr()
    assert main(["jobs", "list", "--state", "succeeded", *address]) == 0
    table = capsys.readouterr().out
    assert all(job["id"][:8] in table for job in listed)


def test_what_cannot_be_is_said(server: ServerProcess, data: Path, tmp_path: Path, capsys: Output) -> None:
    address = ["--address", server.address]
    command = ["train", "finetune-captioning", "--server", server.address]
    assert main([*command, "--data", str(data)]) == 1
    assert "name the model to start from: start=NAME" in capsys.readouterr().err
    assert main([*command, "--data", str(data), "--set", "start=/etc"]) == 1
    assert "PERMISSION_DENIED" in capsys.readouterr().err
    assert main([*command, "--data", "server:mine/../x", "--set", "start=mplug-mini"]) == 1
    assert "PERMISSION_DENIED" in capsys.readouterr().err
    bad = save_rows(tmp_path / "bad.jsonl", [{"image": "gone.png", "caption": "a"}])
    assert main([*command, "--data", str(bad), "--set", "start=mplug-mini"]) == 1
    assert "bad.jsonl, line 1: its picture cannot be read" in capsys.readouterr().err
    assert main(["jobs", "list", "--json", *address]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["jobs", "show", "gone", *address]) == 1
    assert "there is no job 'gone'" in capsys.readouterr().err
    assert main(["caption", str(data.parent / "0.png"), "--served-model", "gone", *address]) == 1
    assert "this server has no model 'gone' besides its own" in capsys.readouterr().err


def test_a_job_is_cancelled_by_its_id(server: ServerProcess, data: Path, start: Path, capsys: Output) -> None:
    address = ["--address", server.address]
    values = settings(start, "epochs=10000", f"start=starts/{start.name}")[1:]
    sent = ["train", "finetune-captioning", "--data", str(data), "--server", server.address, "--detach"]
    assert main([*sent, *as_flags(values)]) == 0
    id = capsys.readouterr().out.strip()
    assert main(["jobs", "cancel", id[:8], *address]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "cancelled"
    assert main(["jobs", "watch", id, *address]) == 1
    assert "cancelled" in capsys.readouterr().err
