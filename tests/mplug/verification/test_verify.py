"""ModelScope's half in a real child process.

ModelScope itself is not among our requirements. Where it has to answer, `golden/reference_stand_in` does, in its own
process and by its names; what ModelScope computed is in `test_stages.py`.
"""

from __future__ import annotations

import ast
import json
import sys
import venv
from pathlib import Path

import pytest
import torch

from golden.mplug_cases import GOLDEN, GoldenCase, read_case
from mplug.errors import CheckpointError, MplugError
from mplug.verification import VerificationError, verify
from mplug.verification.reference import RUNNER
from mplug.verification.verify import drawn_picture

STAND_IN = GOLDEN / "reference_stand_in"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))


@pytest.fixture
def vqa_folder(tmp_path: Path) -> Path:
    return read_case("vqa_base").write_modelscope(tmp_path / "vqa")


def retrieval_without_bridge() -> GoldenCase:
    """The base model, with the heads that retrieval has."""
    case = read_case("vqa_base")
    generator = torch.Generator().manual_seed(3)
    for name, width in (("vision_proj", 16), ("text_proj", 16), ("itm_head", 2)):
        case.weights[f"{name}.weight"] = torch.randn(width, 64, generator=generator)
        case.weights[f"{name}.bias"] = torch.randn(width, generator=generator)
    case.weights["temp"] = torch.tensor(0.05)
    return case


@pytest.mark.usefixtures("stand_in")
def test_equal_for_captions_from_a_picture_of_ones_own(tmp_path: Path) -> None:
    folder = read_case("caption_large").write_modelscope(tmp_path / "caption")
    drawn_picture().rotate(90, expand=True).save(tmp_path / "own.jpg")
    found = verify(folder, image=tmp_path / "own.jpg")
    assert (found.task, found.first, found.missing, found.stopped) == ("caption", None, (), None)
    assert found.equal
    assert [one.stage for one in found.comparisons] == [
        "pixels",
        "vision tower",
        "image tokens",
        "first logits",
        "generated ids",
    ]
    assert found.reference_versions["torch"] == torch.__version__


@pytest.mark.usefixtures("stand_in")
def test_retrieval_without_a_bridge_runs_and_says_so(tmp_path: Path) -> None:
    folder = retrieval_without_bridge().write_modelscope(tmp_path / "retrieval")
    # The same backbone under another task than the folder names.
    (folder / "configuration.json").write_text(json.dumps({"task": "visual-question-answering"}))
    found = verify(folder, task="retrieval", text="piece7 piece11")
    assert found.equal, found.first
    assert [one.stage for one in found.comparisons][-3:] == [
        "fused text",
        "matching logits",
        "matching scores",
    ]
    assert len(found.notes) == 1
    assert "visn_fc" in found.notes[0]


@pytest.mark.usefixtures("stand_in")
def test_a_reference_that_computes_otherwise_is_told(
    vqa_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_CHANGES", "fusion_encoder.layers.0.attention.value.weight")
    found = verify(vqa_folder)
    assert found.task == "vqa"
    assert not found.equal
    assert found.first is not None
    assert found.first.stage == "fused image"
    assert float(found.first.ours) == pytest.approx(float(found.first.reference), rel=0.1)
    equal = [one.stage for one in found.comparisons if one.ok]
    assert equal[:4] == ["pixels", "vision tower", "text ids", "text states"]


@pytest.mark.usefixtures("stand_in")
def test_a_reference_that_fails_halfway_is_compared_up_to_there(
    vqa_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_CHANGES", "no.such.weight")
    found = verify(vqa_folder)
    assert (found.equal, found.first) == (False, None)
    assert [one.stage for one in found.comparisons] == ["pixels", "text ids"]
    assert found.missing[0] == "vision tower"
    assert "no" in str(found.stopped)


def test_an_environment_without_modelscope_says_what_to_install(vqa_folder: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    with pytest.raises(VerificationError) as caught:
        verify(vqa_folder, reference_python=python)
    message = str(caught.value)
    assert f"cannot be imported by {python}: modelscope is not installed" in message
    assert "pip install modelscope==" in message
    assert "--reference-python" in message


def test_libraries_that_do_not_fit_each_other_are_told(
    vqa_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "libraries" / "modelscope"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from json import no_such_name\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    with pytest.raises(VerificationError, match="ImportError: cannot import name 'no_such_name'"):
        verify(vqa_folder)


def test_a_library_that_is_missed_only_at_work(
    vqa_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ModelScope imports some of what it needs inside its functions.
    for name, source in (
        ("models/multi_modal/mplug.py", "MPlug = None\n"),
        ("preprocessors/multi_modal.py", "def MPlugPreprocessor(folder):\n    import no_such_library\n"),
    ):
        file = tmp_path / "libraries" / "modelscope" / name
        file.parent.mkdir(parents=True)
        file.write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "libraries"))
    with pytest.raises(VerificationError, match=r"no_such_library is not installed.*pip install modelscope"):
        verify(vqa_folder)


def test_an_interpreter_that_is_none(vqa_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="gone cannot be run: No such file"):
        verify(vqa_folder, reference_python=tmp_path / "gone")
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\necho out of memory\nexit 9\n")
    dying.chmod(0o755)
    with pytest.raises(VerificationError, match="exit status 9: out of memory"):
        verify(vqa_folder, reference_python=dying)


def test_what_cannot_be_compared_is_refused_before_anything_runs(vqa_folder: Path, tmp_path: Path) -> None:
    python = tmp_path / "never run"
    with pytest.raises(CheckpointError, match="gone is not a folder"):
        verify(tmp_path / "gone", reference_python=python)
    with pytest.raises(CheckpointError, match=r"config\.yaml is missing"):
        verify(tmp_path, reference_python=python)
    with pytest.raises(MplugError, match="the task is 'rerank'"):
        verify(vqa_folder, task="rerank", reference_python=python)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MplugError, match="not an image"):
        verify(vqa_folder, image=tmp_path / "text.png", reference_python=python)
    (vqa_folder / "configuration.json").write_text('{"task": "video-captioning"}')
    with pytest.raises(MplugError, match="the task is 'video-captioning'"):
        verify(vqa_folder, reference_python=python)


def test_the_runner_needs_nothing_of_ours_and_no_new_python() -> None:
    tree = ast.parse(RUNNER.read_text(), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {*sys.stdlib_module_names, "__future__"}
