"""What makes vectors is in the fingerprint, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from golden.mplug_cases import GoldenCase, small_vocab, tiny_config, tiny_model
from mplug.checkpoints import native
from mplug.loading import load
from mplug.preprocess import PreprocessConfig


@pytest.mark.parametrize("part", ["image_encoder", "text_encoder", "image_proj", "text_proj"])
def test_every_tensor_on_the_way_counts(part: str) -> None:
    model, twin = tiny_model(), tiny_model()
    assert model.fingerprint == twin.fingerprint
    name, parameter = next((n, p) for n, p in tiny_model().named_parameters() if n.startswith(part))
    changed = tiny_model()
    with torch.no_grad():
        changed.get_parameter(name).view(-1)[0] += 1e-3
    assert parameter.shape == changed.get_parameter(name).shape
    assert changed.fingerprint != model.fingerprint


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "another"}, True),
        ({"licence": "another"}, True),
        ({"preprocess": PreprocessConfig(image_size=32, mean=(0.5, 0.5, 0.5))}, False),
        ({"preprocess": PreprocessConfig(image_size=32, std=(0.5, 0.5, 0.5))}, False),
        ({"max_text_tokens": 12}, False),
        ({"text_encoder": dataclasses.replace(tiny_config().text_encoder, heads=2)}, False),
        ({"text_encoder": dataclasses.replace(tiny_config().text_encoder, eps=1e-5)}, False),
        ({"text_encoder": dataclasses.replace(tiny_config().text_encoder, dropout=0.1)}, True),
    ],
)
def test_settings(changes: dict[str, Any], same: bool) -> None:
    assert (tiny_model(tiny_config(**changes)).fingerprint == tiny_model().fingerprint) is same


def test_vocabulary_counts() -> None:
    vocab = small_vocab(130)
    vocab[5], vocab[6] = vocab[6], vocab[5]
    assert tiny_model(vocab=vocab).fingerprint != tiny_model().fingerprint


def test_temperature_does_not_count() -> None:
    changed = tiny_model()
    with torch.no_grad():
        changed.logit_scale.add_(1)
    assert changed.fingerprint == tiny_model().fingerprint


def test_other_heads_and_order_in_the_file_do_not_count(retrieval_case: GoldenCase, tmp_path: Path) -> None:
    plain = load(retrieval_case.write_modelscope(tmp_path / "plain"))
    more = {
        "text_decoder.bert.embeddings.word_embeddings.weight": torch.randn(130, 48),
        **retrieval_case.weights,
    }
    more["itm_head.weight"] = torch.randn(2, 48)
    more["fusion_encoder.encoder.layer.0.attention.output.LayerNorm.bias"] = torch.randn(48)
    backwards = dict(reversed(list(more.items())))
    other = load(retrieval_case.write_modelscope(tmp_path / "more", {"module": backwards}))
    assert other.fingerprint == plain.fingerprint


def test_storage_does_not_count(tmp_path: Path) -> None:
    model = tiny_model()
    native.save(model, tmp_path)
    assert load(tmp_path).fingerprint == model.fingerprint


def test_training_forgets_it() -> None:
    model = tiny_model()
    before = model.fingerprint
    model.train()
    with torch.no_grad():
        model.image_proj.bias.add_(1)
    assert model.eval().fingerprint != before
