import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mplug_services.cli import COMMANDS, main
from mplug_services.cli.serve import FLAGS
from mplug_services.config import ServeConfig

NOWHERE = "127.0.0.1:1"


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def test_help_names_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in COMMANDS)
    assert "some items were refused" in text


def test_help_explains_no_setting_that_is_not_there() -> None:
    assert set(FLAGS) <= {field.name for field in dataclasses.fields(ServeConfig)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mplug {command}")
    assert (COMMANDS[command].__doc__ or "").splitlines()[0] in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["search", "--collection", "pets"], "nothing to search for"),
        (["search", "cat"], "--collection"),
        (["search", "cat", "--collection", "pets", "-k", "0"], "-k"),
        (["search", "cat", "--collection", "pets", "-k", "many"], "many"),
        (["search", "cat", "--collection", "pets", "--weight", "1", "--weight", "2"], "2 weights"),
        (["search", "cat", "--collection", "pets", "--filter", "kind"], "--filter 'kind'"),
        (["search", "cat", "--collection", "pets", "--filter", "n>2", "--filter", "taken>x"], "taken>x"),
        (["search", "--image", "gone.png", "--collection", "pets"], "gone.png is not a file"),
        (["search", "--like", "a", "--collection", "pets", "--rerank", "3"], "give a TEXT"),
        (["search", "cat", "--collection", "pets", "--rerank", "-1"], "--rerank"),
        (["search", "cat", "--collection", "pets", "--explain", "out"], "give --rerank K as well"),
        (["ask", "pyproject.toml", "what?", "--explain", "out.jpg"], "takes a .png file, not out.jpg"),
        (["caption"], "SOURCE"),
        (["caption", "gone"], "gone does not exist"),
        (["caption", ".", "--output", "out.csv"], "out.csv"),
        (["caption", ".", "--batch-size", "0"], "--batch-size"),
        (["ask", "gone.png", "what?"], "gone.png cannot be read"),
        (["ask", "http://example.org/a.png", "what?"], "not fetched"),
        (["ingest", "gone", "--collection", "pets"], "gone does not exist"),
        (["ingest", "--collection", "pets"], "SOURCE"),
        (["embed"], "--text"),
        (["embed", "--text", "cat", "--image", "cat.png"], "not allowed with"),
        (["embed", "--text", "cat", "--output", "vectors.csv"], "vectors.csv"),
        (["embed", "--text-file", "gone.txt"], "gone.txt"),
        (["info", "--tls-ca", "gone.pem"], "gone.pem"),
        (["train", "unheard-of"], "unheard-of"),
        (["train", "mplug-mini"], "--data"),
        (["train", "plan", "--layers", "2"], "--parameters, --hidden"),
        (["train", "mplug-mini", "--data", "gone", "--output", "out"], "gone does not exist"),
        (["train", "mplug-mini", "--data", ".", "--output", "out", "--model", "m"], "go with --server"),
        (["train", "finetune-vqa", "--server", NOWHERE], "give one --data to be sent"),
        (["train", "finetune-vqa", "--server", NOWHERE, "--output", "out"], "--output and --resume"),
        (["train", "finetune-vqa", "--server", NOWHERE, "--data", "a", "--data", "server:b"], "one --data"),
        (["jobs"], "list"),
        (["jobs", "show"], "list takes no JOB"),
        (["jobs", "list", "x"], "list takes no JOB"),
        (["ask", "pyproject.toml", "what?", "--model", "m", "--served-model", "n"], "give one of both"),
    ],
)
def test_wrong_use_is_explained_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments", [["info"], ["search", "cat", "--collection", "pets"], ["embed", "--text", "cat"]]
)
def test_no_server_is_a_failure_that_says_what_to_do(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--address", NOWHERE) == 1
    error = capsys.readouterr().err
    assert f"no server answers at {NOWHERE}" in error
    assert "mplug serve" in error
    assert "--model" not in error


@pytest.mark.parametrize("arguments", [["caption", "{picture}"], ["ask", "{picture}", "what is this?"]])
def test_what_can_be_done_here_says_how_to_do_without_a_server(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"not looked at")
    command = [each.format(picture=tmp_path / "a.png") for each in arguments]
    assert run(*command, "--address", NOWHERE) == 1
    assert "--model mplug-mini" in capsys.readouterr().err


def test_the_address_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLUG_ADDRESS", NOWHERE)
    assert run("info") == 1
    assert NOWHERE in capsys.readouterr().err


def test_a_model_that_is_not_there_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", str(tmp_path / "model")) == 1
    assert "model" in capsys.readouterr().err


def test_a_gallery_that_is_not_there_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--gallery", str(tmp_path / "gone.jsonl"), "--output", str(tmp_path / "out")) == 1
    assert "gone.jsonl does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "list") == 0
    assert "mplug-mini" in capsys.readouterr().out.splitlines()


PLAN = (
    *("--parameters", "1e9", "--layers", "20", "--hidden", "2048", "--peak", "312"),
    *("--tokens", "1e9", "--sequence", "512", "--batch", "2"),
)


def test_a_run_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "plan", *PLAN, "--memory", "80", "--hours", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    # (6e9 + 12 x 20 x 2048 x 512) x 1e9 operations at 40 % of 312e12 a second
    assert found["seconds"] == pytest.approx(6.2517e18 / 124.8e12 / found["devices"], rel=1e-3)
    assert found["devices"] == 5


def test_a_run_that_fits_nowhere_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "plan", *PLAN, "--memory", "8") == 1
    assert "recomputed layers" in capsys.readouterr().err


def test_a_thin_client_s_command_brings_no_server_half() -> None:
    script = (
        "import json, sys; from mplug_services.cli import build_parser; "
        "build_parser(); print(json.dumps(sorted(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in json.loads(answer.stdout)}
    assert not loaded & {"torch", "faiss", "PIL", "timm", "tokenizers", "sqlite3"}
