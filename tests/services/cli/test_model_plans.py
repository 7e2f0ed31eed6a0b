"""`mplug models --fits` and `--agreement`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.gpt3_cases import tiny_generator
from mplug import gpt3
from mplug.memory_plan import Use, plan
from mplug.planned_models import named_models
from mplug_services.cli import main
from mplug_services.cli.common import CliError
from mplug_services.cli.model_plans import parse_size

Output = pytest.CaptureFixture[str]


def test_plans_as_json(capsys: Output) -> None:
    assert main(["models", "--fits", "24GB", "--batch", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.keys() == named_models().keys()
    found = facts["gpt3-13B"]
    assert [types["fits"] for types in found.values()] == [False, False, True, True]
    assert found["bfloat16"]["devices"] == 2
    assert found["int8"]["total"] == plan(named_models()["gpt3-13B"], "int8", Use(batch=2)).total
    assert list(facts["mplug-base"]) == ["float32", "bfloat16"]


def test_plans_as_a_table(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models", "--fits", "24GB", "--on", "cuda"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "…" in line], "everything is to be read on a narrow terminal"
    verdicts = {(row[0], row[1]): row[-1] for row in map(str.split, lines) if len(row) == 8}
    assert verdicts["plug-27B", "float32"] == "8"
    assert verdicts["gpt3-2.7B", "bfloat16"] == "1"
    assert ("gpt3-2.7B", "int4") not in verdicts


def test_sizes_are_read_and_others_refused(capsys: Output) -> None:
    assert parse_size("24GB") == 24 * 10**9
    assert parse_size("0.5 gib") == 2**29
    with pytest.raises(CliError, match="such as 24GB or 80GiB"):
        parse_size("24")
    assert main(["models", "--fits", "24GB", "--batch", "0"]) == 1
    assert "batch is 0" in capsys.readouterr().err


def test_agreement_is_printed(tmp_path: Path, capsys: Output) -> None:
    gpt3.save(tiny_generator("plain", hidden=64, ffn=256, vocab_size=416), tmp_path / "model")
    (tmp_path / "texts.txt").write_text("今天天气\n\n月亮\n", encoding="utf-8")
    command = ["models", str(tmp_path / "model"), "--agreement", str(tmp_path / "texts.txt")]
    assert main([*command, "--dtype", "bfloat16"]) == 0
    assert "greedy tokens equal" in capsys.readouterr().out
    assert main([*command, "--dtype", "float8"]) == 1
    assert "dtype is 'float8'; known are float32" in capsys.readouterr().err
    assert main(["models", "--agreement", str(tmp_path / "texts.txt")]) == 1
    assert "name its folder" in capsys.readouterr().err
