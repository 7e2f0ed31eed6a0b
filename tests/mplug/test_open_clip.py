"""open_clip models end to end, on the smallest one it has."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from golden.mplug_cases import some_pixels
from mplug.contrastive import ContrastiveModel
from mplug.errors import CheckpointError
from mplug.loading import load
from mplug.open_clip_model import OpenClipModel
from mplug.text.tokenizer import pad

SMALLEST = "open_clip:ViT-S-32-alt"


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    # open_clip logs through the root logger, which then gets a handler.
    before = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="module")
def model() -> ContrastiveModel:
    return load(SMALLEST)


def test_what_serving_needs(model: ContrastiveModel) -> None:
    assert isinstance(model, ContrastiveModel)
    assert isinstance(model, OpenClipModel)
    assert (model.name, model.embed_dim, model.preprocess.image_size) == ("ViT-S-32-alt", 256, 224)
    assert model.preprocess.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert (model.device, model.dtype, len(model.fingerprint)) == (torch.device("cpu"), torch.float32, 64)
    assert model.num_parameters > 1_000_000
    assert model.report.loaded


@torch.inference_mode()
def test_vectors_are_open_clips(model: ContrastiveModel) -> None:
    assert isinstance(model, OpenClipModel)
    texts = ["a dog", "a photo of two dogs running on the beach!"]
    ids, mask = pad(model.tokenizer.encode_batch(texts), model.tokenizer.pad_id)
    ours = model.embed_texts(torch.from_numpy(ids), torch.from_numpy(mask))
    assert ids.shape[1] < 77
    whole = torch.zeros(2, 77, dtype=torch.long)
    whole[:, : ids.shape[1]] = torch.from_numpy(ids)
    assert torch.allclose(ours, model.clip.encode_text(whole, normalize=True), atol=1e-6)

    vectors = model.embed_images(some_pixels(size=224))
    assert vectors.shape == (2, 256)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


def test_tokens(model: ContrastiveModel) -> None:
    short, long = model.tokenizer.encode_batch(["dog!", "dog " * 5000])
    assert (short.truncated, len(short.ids)) == (False, 4)
    assert (long.truncated, len(long.ids)) == (True, model.tokenizer.max_length)
    exact = model.tokenizer.encode("dog " * (model.tokenizer.max_length - 2))
    assert (exact.truncated, len(exact.ids)) == (False, 77)
    assert np.array_equal(model.tokenizer.encode("").ids, [49406, 49407])
    assert model.tokenizer.encode_batch([]) == []


def test_random_weights_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mplug.open_clip_model"):
        model = load(SMALLEST, dtype="bfloat16")
    assert "random weights" in caplog.text
    assert model.dtype == torch.bfloat16


def test_unknown_pretrained_tag() -> None:
    with pytest.raises(CheckpointError, match="open_clip cannot load 'ViT-S-32-alt:nonsense'"):
        load(f"{SMALLEST}:nonsense")
