"""Recipes: the published numbers, overrides, and models that start from folders, from a BERT or with another tower."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from experiment_cases import Loop, text_batch
from golden.mplug_cases import small_vocab, tiny, tiny_whole_config
from mplug.captioning import CaptionModel
from mplug.checkpoints import native
from mplug.errors import MplugError
from mplug.loading import load_as
from mplug.tasks import task_size
from mplug.train.config import override
from mplug.train.experiments.base import Setup
from mplug.train.experiments.batches import TextBatch
from mplug.train.experiments.building import new_model, setup_of, start_model
from mplug.train.experiments.captioning import CaptionExperiment
from mplug.train.experiments.models import MatchingModel, WholeModel
from mplug.train.experiments.pretraining import PretrainingExperiment
from mplug.train.experiments.recipes import (
    MplugRunConfig,
    finetune_captioning,
    finetune_captioning_scst,
    finetune_retrieval,
    finetune_vqa,
    mplug_base,
    pretrain,
)
from mplug.train.optimizer import rate_factor

PUBLISHED = [
    (finetune_retrieval, 336, 128, 8, 2e-6, 1e-5, 0.5),
    (finetune_captioning, 384, 64, 5, 5e-6, 1e-5, 0.5),
    (finetune_captioning_scst, 384, 32, 5, 1e-6, 1e-6, 0.5),
    (finetune_vqa, 384, 128, 8, 5e-6, 3e-5, 0.5),
    (pretrain, 256, 256, 30, 1e-5, 1e-4, 0.2),
]


def one(model: nn.Module) -> dict[str, float]:
    return {"metric": 1.0}


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case[0].__name__)
def test_published_settings(
    case: tuple[Callable[[], MplugRunConfig], int, int, int, float, float, float],
) -> None:
    recipe, size, batch, epochs, tower, rest, min_crop = case
    config = recipe()
    assert (config.image_size, config.batch_size, config.epochs) == (size, batch, epochs)
    assert (config.learning_rates.vision_tower, config.learning_rates.rest) == (tower, rest)
    assert (config.augment.min_crop, config.augment.num_operations, config.augment.magnitude) == (
        min_crop,
        2,
        7,
    )
    assert config.optimizer.weight_decay == 0.02


def test_learning_rates_end_where_the_reference_s_do() -> None:
    for config, last in ((pretrain(), 1e-6), (finetune_captioning_scst(), 8e-8)):
        share = rate_factor(config.optimizer, 10_000, 10_000)
        assert config.learning_rates.rest * share == pytest.approx(last)
    objective = pretrain().objective
    assert (objective.contrast.queue_size, objective.contrast.momentum, objective.contrast.alpha) == (
        65536,
        0.995,
        0.4,
    )
    assert objective.masking.probability == 0.15
    scst = finetune_captioning_scst().objective
    assert (scst.method, scst.captions, scst.min_length, scst.max_length) == ("beam", 5, 8, 25)


def test_fields_of_a_recipe_are_overridden_by_name() -> None:
    config = override(
        pretrain(),
        [
            "objective.mlm_weight=0",
            "objective.contrast.queue_size=8",
            "learning_rates.rest=2e-4",
            "augment.mirror=False",
        ],
    )
    assert config.objective.mlm_weight == 0
    assert config.objective.contrast.queue_size == 8
    assert config.learning_rates.rest == 2e-4
    assert not config.augment.mirror


def test_mplug_base_has_the_published_number_of_parameters() -> None:
    sizes = task_size(mplug_base(image_size=256), "vqa").modules
    assert sum(sizes.values()) / 1e6 == pytest.approx(350, rel=0.02)
    fusion = mplug_base(image_size=256).fusion_encoder
    assert fusion is not None
    assert fusion.connected_layers == (3,)


def test_fine_tuning_starts_from_a_folder_at_another_size(tmp_path: Path) -> None:
    native.save(tiny(WholeModel), tmp_path)
    settings = [f"start={str(tmp_path)!r}", "image_size=48", "max_text_tokens=12"]
    config = override(finetune_retrieval(), settings)
    model = start_model(config, MatchingModel)
    assert model.preprocess.image_size == 48
    assert model.tokenizer.max_length == model.config.max_text_tokens == 12
    native.save(model, tmp_path / "tuned")
    again = load_as(tmp_path / "tuned", MatchingModel)
    assert again.encode_image(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).shape[1] == 10
    assert again.tokenizer.max_length == 12


def test_a_caption_recipe_trains(tmp_path: Path) -> None:
    native.save(tiny(CaptionModel), tmp_path)
    config = override(finetune_captioning(), [f"start={str(tmp_path)!r}", "image_size=32"])
    model = start_model(config, CaptionModel)
    experiment = CaptionExperiment(
        model, config.objective, setup_of(config, text_batch, one, steps_per_epoch=2)
    )
    assert experiment.goal.metric == "cider"
    assert {group.lr for group in experiment.parameter_groups()} == {5e-6, 1e-5}
    Loop(experiment).run(range(1))
    batch = text_batch(0, 0)
    assert experiment.count(0, 0) == {"images": 6, "tokens": int(batch.mask_BL.sum())}


@pytest.mark.parametrize("backbone", ["timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"])
def test_pretraining_takes_another_tower_by_one_value(backbone: str, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("".join(f"{piece}\n" for piece in small_vocab(130)), encoding="utf-8")
    settings = ["image_size=32", "objective.contrast.queue_size=12", f"backbone={backbone!r}"]
    settings.append(f"vocabulary={vocabulary}")
    config = override(dataclasses.replace(pretrain(), model=tiny_whole_config()), settings)
    model = new_model(config)
    setup: Setup[WholeModel, TextBatch] = setup_of(config, text_batch, one, steps_per_epoch=2)
    losses = Loop(PretrainingExperiment(model, config.objective, setup)).run(range(1))
    assert all(loss > 0 for loss in losses[0].values())
    assert model.config.image_encoder.backbone == backbone


def test_what_is_not_named_is_asked_for() -> None:
    with pytest.raises(MplugError, match="--set start=FOLDER"):
        start_model(finetune_vqa(), WholeModel)
    with pytest.raises(MplugError, match="--set bert=FOLDER"):
        new_model(pretrain())


def test_listing_recipes_needs_no_torch() -> None:
    code = "import sys, mplug.train.experiments.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
