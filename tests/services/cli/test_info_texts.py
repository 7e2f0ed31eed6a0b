"""`mplug info` of a text model's folder, and the licence that the folder may state."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from golden.gpt3_cases import tiny_generator
from golden.palm_cases import tiny_palm
from mplug import gpt3, palm
from mplug_kernels import dispatch
from mplug_kernels.dispatch import Standing
from mplug_services.cli import main
from mplug_services.runners.text_models import describe_text_model
from text_models import write_folder

pytestmark = pytest.mark.usefixtures("one_thread")

LICENCE = "Research use: for a test."


# Any: both packages write what they read.
def written(family: str, place: Path, licence: str) -> tuple[Any, Path]:
    package: Any = {"gpt3": gpt3, "palm": palm}[family]
    generator: Any = tiny_generator("plain", ffn=128) if family == "gpt3" else tiny_palm()
    generator.config = dataclasses.replace(generator.config, licence=licence)
    package.save(generator, place)
    return package, place


@pytest.mark.parametrize("family", ["gpt3", "palm"])
def test_a_folder_says_its_licence(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = written(family, tmp_path / "mine", LICENCE)
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["licence"]) == ("mine", LICENCE)
    assert "text-generation" in facts["tasks"]


@pytest.mark.parametrize("family", ["gpt3", "palm"])
def test_a_licence_changes_neither_the_fingerprint_nor_the_reference_s_file(
    family: str, tmp_path: Path
) -> None:
    package, with_one = written(family, tmp_path / "with", LICENCE)
    _, without = written(family, tmp_path / "without", "")
    assert "licence" not in json.loads((without / "config.json").read_text())
    described = [describe_text_model("text-generation", package.load(each)) for each in (with_one, without)]
    assert [each.licence for each in described] == [LICENCE, ""]
    assert described[0].fingerprint == described[1].fingerprint


def test_a_model_that_judges_is_told_of_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(write_folder("nli", tmp_path)), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["licence"]) == ("nli", "not stated")


def test_what_computes_cross_attention_is_told_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, folder = written("palm", tmp_path / "mine", "")
    said = "kv, absorbed_two, absorbed_one: plain torch: compiled for CUDA, not for cpu"
    assert main(["info", str(folder)]) == 0
    assert said in capsys.readouterr().out
    assert main(["info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attention kernels"] == said


def test_kernels_that_stand_differently_have_lines_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    standings = {
        "kv": Standing(True, "right on sm_90: h.json"),
        "absorbed_two": Standing(False, "h.json: no"),
    }
    monkeypatch.setattr(dispatch, "explain", lambda _: standings)
    _, folder = written("palm", tmp_path / "mine", "")
    assert main(["info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attention kernels"].splitlines() == [
        "kv: compiled, where it was measured to be faster: right on sm_90: h.json",
        "absorbed_two: plain torch: h.json: no",
    ]
