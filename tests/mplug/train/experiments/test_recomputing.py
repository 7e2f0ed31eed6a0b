"""Layers that are computed again in the backward pass: the same gradients, less kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from experiment_cases import setup, text_batch, total
from golden.mplug_cases import tiny, tiny_config, tiny_whole_config
from mplug.captioning import CaptionModel
from mplug.config import MplugConfig
from mplug.errors import ConfigError
from mplug.retrieval import RetrievalModel
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.pretraining import PretrainingExperiment
from mplug.train.experiments.recomputing import MODULES, recompute
from mplug.train.experiments.settings import PretrainingObjective
from mplug.train.experiments.starting import with_backbone


def dropping_out() -> MplugConfig:
    config = tiny_whole_config()
    assert config.fusion_encoder is not None
    assert config.text_decoder is not None
    return dataclasses.replace(
        config,
        text_encoder=dataclasses.replace(config.text_encoder, dropout=0.3),
        fusion_encoder=dataclasses.replace(config.fusion_encoder, dropout=0.3),
        text_decoder=dataclasses.replace(config.text_decoder, dropout=0.3),
    )


@contextmanager
def kept_bytes(kept: list[int]) -> Iterator[None]:
    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def step(recomputed: tuple[str, ...]) -> tuple[float, dict[str, torch.Tensor], int]:
    torch.manual_seed(2)  # of the head of masked words
    model = tiny(WholeModel, dropping_out())
    found = PretrainingExperiment(model, PretrainingObjective(), setup(text_batch, recomputed=recomputed))
    found.model.train()
    torch.manual_seed(3)
    kept: list[int] = []
    with kept_bytes(kept):
        loss = total(found.losses(0, 0).values())
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return loss.item(), gradients, sum(kept)


def test_gradients_are_equal_with_dropout_and_less_is_kept() -> None:
    loss, gradients, kept = step(())
    again, recomputed, less = step(MODULES)
    assert again == loss
    assert recomputed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)
    assert less < 0.75 * kept


def test_evaluation_is_not_touched() -> None:
    plain, model = tiny(CaptionModel), tiny(CaptionModel)
    recompute(model, ("image_encoder", "text_decoder"))
    assert plain.state_dict().keys() == model.state_dict().keys()
    pixels = text_batch(0, 0).pixels
    assert model.caption(pixels) == plain.caption(pixels)


def test_an_open_clip_tower_can_be_recomputed() -> None:
    small = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
    config = tiny_config()
    image = dataclasses.replace(
        config.image_encoder, backbone="open_clip:ViT-B-32-quickgelu", backbone_options=small
    )
    plain, model = (tiny(RetrievalModel, dataclasses.replace(config, image_encoder=image)) for _ in range(2))
    recompute(model, ("image_encoder",))
    pixels = text_batch(0, 0).pixels
    for each in (plain, model):
        each.encode_image(pixels).square().sum().backward()  # type: ignore[no-untyped-call]
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_cannot_be_recomputed_is_refused() -> None:
    with pytest.raises(ConfigError, match="this model has image_encoder, text_decoder"):
        recompute(tiny(CaptionModel), ("fusion_encoder",))
    config = with_backbone(tiny_config(), "timm:tf_efficientnet_lite0")
    with pytest.raises(ConfigError, match="EfficientNet has batch norms"):
        recompute(tiny(RetrievalModel, config), ("image_encoder",))
