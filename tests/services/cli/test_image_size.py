"""`--image-size` of `mplug caption` and `mplug ask`: the model here sees pictures at another size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mplug
from golden.mplug_cases import read_case
from mplug.captioning import Captioner
from mplug.errors import MplugError
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug_services.cli import main
from services.cli.live_server import write_pictures

Output = pytest.CaptureFixture[str]
SIZE = 64
"""The golden models were made for 32."""
QUESTION = "piece9 piece10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    for name in ("caption_large", "vqa_base"):
        read_case(name).write_modelscope(folder / name)
    write_pictures(folder, 1)
    return folder


def caption_ids(model: Captioner, file: Path) -> list[int]:
    pixels = to_pixels(decode_image(file.read_bytes()), model.preprocess.image_size)
    ((best, *_),) = model.caption(torch.from_numpy(pixels)[None])
    return list(best.hypothesis.ids)


def test_a_caption_is_the_library_s_at_that_size(folder: Path, capsys: Output) -> None:
    picture, source = folder / "red.png", folder / "caption_large"
    expected = {
        size: caption_ids(mplug.load(source, task="caption", image_size=size), picture) for size in (32, SIZE)
    }
    assert expected[32] != expected[SIZE]
    for arguments, size in (([], 32), (["--image-size", str(SIZE)], SIZE)):
        assert main(["caption", str(picture), "--model", str(source), *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["token_ids"] == expected[size]


def test_an_answer_is_the_pipeline_s_at_that_size(folder: Path, capsys: Output) -> None:
    picture, source = folder / "red.png", folder / "vqa_base"
    command = ["ask", str(picture), QUESTION, "--answers", "piece7", "piece8", "--json"]
    found = []
    for size in (32, SIZE):
        assert main([*command, "--model", str(source), "--image-size", str(size)]) == 0
        found.append(json.loads(capsys.readouterr().out)["ranked"])
    assert found[0] != found[1]
    assert main([*command[:3], "--model", str(source), "--image-size", str(SIZE)]) == 0
    pipeline = mplug.pipeline("visual-question-answering", source, image_size=SIZE)
    assert capsys.readouterr().out == pipeline((picture, QUESTION))["text"] + "\n"


def test_results_of_another_size_are_not_added_to(folder: Path, tmp_path: Path, capsys: Output) -> None:
    output = tmp_path / "captions.jsonl"
    command = ["caption", str(folder / "red.png"), "--model", str(folder / "caption_large")]
    command += ["--output", str(output)]
    assert main([*command, "--image-size", str(SIZE)]) == 0
    before = output.read_bytes()
    for arguments in ([], ["--image-size", "32"]):
        assert main([*command, *arguments]) == 2
        assert f"begun with other settings (image_size {SIZE}, not" in capsys.readouterr().err
    assert output.read_bytes() == before


@pytest.mark.parametrize("command", [["caption", "."], ["ask", "{folder}/red.png", "what?"]])
def test_a_server_has_its_own_size(command: list[str], folder: Path, capsys: Output) -> None:
    arguments = [each.format(folder=folder) for each in command]
    assert main([*arguments, "--address", "localhost:1", "--image-size", str(SIZE)]) == 2
    assert "--image-size is for a --model on this machine" in capsys.readouterr().err
    with pytest.raises(MplugError, match="image_size is 64, and the model at localhost:1 has a size"):
        mplug.pipeline("image-captioning", "localhost:1", image_size=SIZE)


@pytest.mark.parametrize(
    ("size", "code", "message"),
    [("60", 1, "image_size is 60"), ("0", 1, "image_size is 0"), ("large", 2, "invalid int value: 'large'")],
)
def test_sizes_that_cannot_be_are_named(
    size: str, code: int, message: str, folder: Path, capsys: Output
) -> None:
    arguments: list[Any] = ["caption", str(folder / "red.png"), "--model", str(folder / "caption_large")]
    try:
        found = main([*arguments, "--image-size", size])
    except SystemExit as stop:
        found = int(str(stop.code))
    error = capsys.readouterr().err
    assert (found, "Traceback" in error) == (code, False)
    assert message in error


def test_a_server_names_the_setting_of_a_size_that_its_model_cannot_take(
    folder: Path, tmp_path: Path, capsys: Output
) -> None:
    command = ["serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--services", "caption"]
    model = folder / "caption_large"
    assert main([*command, "--caption-model", str(model), "--caption-image-size", "60"]) == 1
    error = capsys.readouterr().err
    assert f"mplug serve: caption_model {model} at caption_image_size 60: image_size is 60;" in error
    assert main([*command, "--caption-model", str(model), "--caption-image-size", "-8"]) == 2
    assert "caption_image_size is -8; it must be at least 0" in capsys.readouterr().err
