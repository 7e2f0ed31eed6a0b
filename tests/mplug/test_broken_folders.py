"""A folder with NaN among its weights: what runs here says so of each item that meets it, and the others are well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from golden.mplug_cases import tiny
from mplug.captioning import CaptionModel
from mplug.checkpoints import native
from mplug.pipelines import Input, Outcome, Runner, make_runner, pipeline
from mplug.reranking import RerankModel
from mplug.vqa import VqaModel
from services.serving import picture

TEXTS = ["piece8", "piece9 piece7", "piece10 piece11"]
INPUTS = [Input(picture(seed), text) for seed, text in enumerate(TEXTS)]


def broken(folder: Path, kind: Any) -> Path:
    """Texts with the word piece7 meet the NaN. Any: a model's class."""
    model = tiny(kind)
    with torch.no_grad():
        model.text_encoder.embeddings.word.weight[7, 3] = torch.nan
    native.save(model, folder)
    return folder


def run(runner: Runner, inputs: list[Input], ranked: bool) -> list[Outcome]:
    return runner.rank(inputs, ["piece1", "piece2 piece3"]) if ranked else runner.run(inputs)


@pytest.mark.parametrize(
    ("task", "kind", "ranked"),
    [
        ("visual-question-answering", VqaModel, False),
        ("visual-question-answering", VqaModel, True),
        ("image-text-retrieval", RerankModel, False),
    ],
    ids=["answers", "ranked answers", "matches"],
)
def test_only_what_meets_nan_fails(tmp_path: Path, task: str, kind: Any, ranked: bool) -> None:
    runner = make_runner(task, broken(tmp_path / "broken", kind))
    native.save(tiny(kind), tmp_path / "whole")
    whole = make_runner(task, tmp_path / "whole")
    found, expected = run(runner, INPUTS, ranked), run(whole, INPUTS, ranked)
    assert isinstance(found[1].error, FloatingPointError)
    assert "NaN or infinity" in str(found[1].error)
    assert [found[0], found[2]] == [expected[0], expected[2]]


def test_a_caption_of_nan_is_no_caption(tmp_path: Path) -> None:
    model = tiny(CaptionModel)
    with torch.no_grad():
        model.text_decoder.head.bias[9] = torch.nan
    native.save(model, tmp_path)
    captioner = pipeline("image-captioning", tmp_path)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        captioner(picture(1))
