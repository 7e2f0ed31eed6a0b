"""`mplug caption` with folders as ModelScope's hub has them, written from the golden captioner."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mplug
from golden.mplug_cases import GoldenCase, read_case
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug_services.cli import main
from services.cli.live_server import write_pictures

Weights = dict[str, Any]
PREFIX = "model."
KEY = "text_decoder.bert.encoder.layer.0.crossattention.self.key.weight"
WRAPPINGS: dict[str, Callable[[Weights], Weights]] = {
    "plain": lambda weights: weights,
    "prefix": lambda weights: {PREFIX + key: tensor for key, tensor in weights.items()},
    "module": lambda weights: {"module": weights},
    "prefix in module": lambda weights: {"module": WRAPPINGS["prefix"](weights)},
}


@pytest.fixture(scope="module")
def case() -> GoldenCase:
    return read_case("caption_large")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 4)


def library_ids(folder: Path, pictures: list[Path]) -> list[list[int]]:
    """What the API gives for the same files."""
    model = mplug.load(folder, task="caption")
    pixels = [to_pixels(decode_image(file.read_bytes()), model.preprocess.image_size) for file in pictures]
    return [list(best.hypothesis.ids) for (best, *_) in model.caption(torch.from_numpy(np.stack(pixels)))]


def command_ids(folder: Path, pictures: list[Path], output: Path) -> list[list[int]]:
    assert main(["caption", *map(str, pictures), "--model", str(folder), "--output", str(output)]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(line["id"]).name for line in lines] == [file.name for file in pictures]
    return [line["token_ids"] for line in lines]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_command_gives_the_ids_of_the_api_however_the_weights_are_wrapped(
    wrapping: str, case: GoldenCase, pictures: list[Path], tmp_path: Path
) -> None:
    expected = library_ids(case.write_modelscope(tmp_path / "plain"), pictures)
    assert len({tuple(ids) for ids in expected}) > 1, "pictures that one caption fits would show nothing"
    folder = case.write_modelscope(tmp_path / "wrapped", WRAPPINGS[wrapping](case.weights))
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert (KEY in stored) == (wrapping == "plain")
    assert library_ids(folder, pictures) == expected
    assert command_ids(folder, pictures, tmp_path / "captions.jsonl") == expected


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_renamed_key_is_named_and_nothing_is_written(
    wrapping: str,
    case: GoldenCase,
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = {f"{key}_renamed" if key == KEY else key: tensor for key, tensor in case.weights.items()}
    folder = case.write_modelscope(tmp_path / "folder", WRAPPINGS[wrapping](weights))
    output = tmp_path / "captions.jsonl"
    command = ["caption", *map(str, pictures), "--model", str(folder)]
    for arguments in ([], ["--output", str(output)]):
        assert main([*command, *arguments]) == 1
        shown = capsys.readouterr()
        assert f"1 parameters that this task uses are missing: {KEY}." in shown.err
        assert str(folder) in shown.err
        assert shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
