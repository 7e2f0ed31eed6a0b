"""All pairs of a group at once: the same as pair by pair, and what is learnt of them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from experiment_cases import calm
from golden.mplug_cases import tiny, tiny_whole_config
from mplug.checkpoints import native
from mplug.images import decode_image
from mplug.loading import find_folder
from mplug.preprocess import to_pixels
from mplug.retrieval import RetrievalModel
from mplug.train.experiments.batches import tokenize
from mplug.train.experiments.models import WholeModel
from mplug.train.mini.config import WholeShape
from mplug.train.mini.matching import group_loss
from mplug.train.mini.matching_start import start_matching
from mplug.train.mini.pair_scores import pair_logits
from mplug.train.mini.whole import initialise_parts, whole_config


def whole_model(layers: int, stride: int) -> WholeModel:
    config = tiny_whole_config()
    assert config.fusion_encoder is not None
    fusion = dataclasses.replace(config.fusion_encoder, layers=layers, stride_layer=stride)
    return calm(tiny(WholeModel, dataclasses.replace(config, fusion_encoder=fusion))).eval()


@pytest.mark.parametrize(
    ("layers", "stride"),
    [(2, 1), (3, 2), (4, 3), (4, 2), (2, 6), (1, 1)],
    ids=["AC", "AAC", "AAAC", "AACA", "AA", "A"],
)
def test_all_pairs_are_what_each_is_alone(layers: int, stride: int) -> None:
    model = whole_model(layers, stride)
    width = model.config.text_encoder.hidden
    chance = torch.Generator().manual_seed(0)
    image_BND = torch.randn(3, 5, width, generator=chance)
    ids_TL = torch.randint(5, 120, (2, 6), generator=chance)
    mask_TL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    with torch.no_grad():
        text_TLD = model.encode_text(ids_TL, mask_TL)
        found = pair_logits(model, image_BND, text_TLD, mask_TL)
        alone = torch.empty(3, 2)
        for image in range(3):
            for text in range(2):
                logits_12 = model.itm_logits(image_BND[[image]], ids_TL[[text]], mask_TL[[text]])
                alone[image, text] = logits_12[0, 1] - logits_12[0, 0]
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_pairs() -> None:
    model = whole_model(3, 2)
    width = model.config.text_encoder.hidden
    image_BND = torch.randn(2, 4, width, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ids_TL = torch.tensor([[3, 40, 41, 5], [3, 60, 61, 5]])
    mask_TL = torch.ones_like(ids_TL, dtype=torch.bool)
    text_TLD = model.encode_text(ids_TL, mask_TL).detach()
    (gradient,) = torch.autograd.grad(pair_logits(model, image_BND, text_TLD, mask_TL).sum(), image_BND)
    _, fused = model.fusion_encoder(
        image_BND.repeat_interleave(2, 0), text_TLD.repeat(2, 1, 1), text_mask_BL=mask_TL.repeat(2, 1)
    )
    logits_42 = model.itm_head(fused[:, 0])
    (expected,) = torch.autograd.grad((logits_42[:, 1] - logits_42[:, 0]).sum(), image_BND)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_asks_which_and_whether() -> None:
    indifferent = group_loss(torch.zeros(4, 4), torch.arange(4))
    assert indifferent.item() == pytest.approx((2 * math.log(4) + 2 * math.log(2)) / 4)
    sure = group_loss(40 * torch.eye(4) - 20, torch.arange(4))
    assert sure.item() < 1e-6
    ranked_well_but_never_a_match = group_loss(40 * torch.eye(4) - 60, torch.arange(4))
    assert ranked_well_but_never_a_match.item() == pytest.approx(20 / 4, rel=1e-3)


def test_pictures_of_the_same_thing_are_no_negatives_of_one_another() -> None:
    logits = torch.zeros(3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(group_loss(logits, torch.tensor([7, 7, 8])), logits)
    assert gradient[0, 1] == gradient[1, 0] == 0
    assert (gradient[[0, 1, 2, 2], [2, 2, 0, 1]] > 0).all()


def test_matching_begins_with_what_the_joint_space_knows() -> None:
    """On pictures and labels of the gallery; from random weights the first is one in forty."""
    folder = find_folder("mplug-mini")
    half = native.load(folder, RetrievalModel)
    model = WholeModel(
        whole_config(native.read_config(folder / native.CONFIG_FILE), WholeShape()), half.tokenizer
    )
    model.load_state_dict(half.state_dict(), strict=False)
    gallery = Path(__file__).parents[4] / "examples" / "gallery"
    rows = [json.loads(line) for line in (gallery / "gallery.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen, texts = rows[:: len(rows) // 39], []
    with torch.no_grad():
        pixels = [to_pixels(decode_image((gallery / row["image"]).read_bytes()), 224) for row in chosen]
        image_BND = model.eval().encode_image(torch.from_numpy(np.stack(pixels)))
        texts = [row["label"] for row in chosen]
        initialise_parts(model)
        start_matching(model, image_BND, texts)
        ids_TL, mask_TL = tokenize(model.tokenizer, texts)
        log_odds = pair_logits(model, image_BND, model.encode_text(ids_TL, mask_TL), mask_TL)
    right = (log_odds.argmax(0) == torch.arange(len(texts))).float().mean()
    assert right > 0.3
    assert log_odds.abs().max() < 12
