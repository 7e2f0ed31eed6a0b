"""Another vision tower is one value of any recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetuning_runs import anew, losses, save_start, settings, train, write_rows
from mplug.captioning import CaptionModel
from mplug.loading import load_as
from mplug.tasks import TASKS as MODELS
from mplug.train.config import override
from mplug.train.experiments.building import start_model
from mplug.train.experiments.recipes import finetune_captioning

pytestmark = pytest.mark.usefixtures("one_thread")

TOWERS = {"timm:test_vit": 5, "timm:test_efficientnet": 2}
"""A transformer and a CNN, with the tokens that each makes of 32 pixels."""
TASKS = {
    "finetune-captioning": "caption",
    "finetune-captioning-scst": "caption",
    "finetune-vqa": "vqa",
    "finetune-retrieval": "rerank",
    "pretrain": "retrieval",
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("backbone", TOWERS)
@pytest.mark.parametrize("recipe", TASKS)
def test_a_recipe_trains_with_another_tower(start: Path, tmp_path: Path, recipe: str, backbone: str) -> None:
    data, output = write_rows(tmp_path), tmp_path / "out"
    values = anew(start, tmp_path) if recipe == "pretrain" else settings(start)
    if recipe == "finetune-retrieval":
        values.append("objective.contrast.queue_size=12")
    assert train(recipe, data, output, [*values, "max_steps=2", f"backbone={backbone}"]) == 0
    assert len(losses(output)) == 2
    model = load_as(output / "output_best", MODELS[TASKS[recipe]])
    assert model.config.image_encoder.backbone == backbone
    tokens = model.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert tokens.shape == (1, TOWERS[backbone], 48)


def test_all_but_the_tower_is_the_start_s(start: Path) -> None:
    given = load_as(start, CaptionModel).state_dict()
    values = settings(start, "backbone=timm:test_vit", "image_size=64")
    model = start_model(override(finetune_captioning(), values), CaptionModel)
    shared = []
    for name, tensor in model.state_dict().items():
        same_shape = name in given and given[name].shape == tensor.shape
        if not name.startswith("image_encoder.backbone."):
            assert same_shape, name
            assert torch.equal(given[name], tensor), name
        elif same_shape and tensor.dim() > 1:
            shared.append(name)
            assert not torch.equal(given[name], tensor), name
    assert any(".blocks.0." in name for name in shared), (
        "a tower with blocks of the start's own names and shapes"
    )
    assert model.preprocess.image_size == 64
