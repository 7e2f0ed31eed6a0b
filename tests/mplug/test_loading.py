"""Folders of every layout, whole and spoilt."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from golden.mplug_cases import GoldenCase, read_case, some_pixels, some_text, tiny_model
from mplug.checkpoints import native
from mplug.contrastive import ContrastiveModel
from mplug.encoders import Encoders
from mplug.errors import CheckpointError, MplugError
from mplug.loading import load, load_encoders
from mplug.retrieval import RetrievalModel

Weights = dict[str, Any]


def test_report_accounts_for_every_key(retrieval_case: GoldenCase, retrieval_folder: Path) -> None:
    report = load(retrieval_folder).report
    assert len(report.loaded) + len(report.unused) == len(retrieval_case.weights)
    assert (report.missing, report.mis_shaped, report.unknown) == ((), (), ())
    for key in (
        "visual_encoder.visual.proj",
        "visual_encoder.token_embedding.weight",
        "fusion_encoder.encoder.layer.0.attention.output.LayerNorm.bias",
        "itm_head.weight",
        "text_proj_m.weight",
        "image_queue",
        "queue_ptr",
        "text_encoder.embeddings.position_ids",
    ):
        assert key in report.unused, key
    assert str(report).startswith(f"{len(report.loaded)} tensors loaded")


def test_what_serving_needs(retrieval_folder: Path) -> None:
    model = load(retrieval_folder)
    assert isinstance(model, ContrastiveModel)
    assert model.name == "mplug_image-text-retrieval_large_en"
    assert (model.embed_dim, model.preprocess.image_size, model.tokenizer.max_length) == (16, 32, 25)
    assert (model.device, model.dtype, len(model.fingerprint)) == (torch.device("cpu"), torch.float32, 64)
    assert model.num_parameters > 100_000
    assert not model.training  # type: ignore[attr-defined]  # the concrete class is a module


@torch.inference_mode()
def test_other_dtypes_give_float32_vectors_and_the_same_fingerprint(retrieval_folder: Path) -> None:
    full, half = load(retrieval_folder), load(retrieval_folder, dtype="bfloat16")
    ours, theirs = full.embed_images(some_pixels()), half.embed_images(some_pixels())
    assert theirs.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(ours, theirs).min() > 0.99
    assert half.fingerprint == full.fingerprint


def test_unknown_keys_are_listed(retrieval_case: GoldenCase, tmp_path: Path) -> None:
    weights = {
        **retrieval_case.weights,
        "text_encoder.pooler.dense.weight": torch.zeros(2),
        "novelty": torch.zeros(1),
    }
    report = load(retrieval_case.write_modelscope(tmp_path, weights)).report
    assert report.unknown == ("novelty", "text_encoder.pooler.dense.weight")
    assert "2 unknown: novelty" in str(report)


def without(*keys: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key not in keys}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("vision_proj.weight"), "1 parameters that this task uses are missing: vision_proj.weight"),
        (without("temp"), "are missing: temp"),
        (without("visn_fc.bias", "visn_fc.weight"), "2 parameters .* missing: visn_fc.bias, visn_fc.weight"),
        (
            without("visual_encoder.visual.positional_embedding"),
            "missing: visual_encoder.visual.positional_embedding",
        ),
        (
            without("text_encoder.encoder.layer.1.output.dense.weight"),
            "missing: text_encoder.encoder.layer.1.output.dense.weight",
        ),
        (
            lambda w: {**w, "text_proj.weight": torch.zeros(16, 47)},
            r"1 have another shape: text_proj.weight: stored \[16, 47\], expected \[16, 48\]",
        ),
        (
            lambda w: {**w, "visual_encoder.visual.positional_embedding": torch.zeros(26, 128)},
            r"visual_encoder.visual.positional_embedding: stored \[26, 128\], expected \[17, 128\]"
            r"|stored \[1, 26, 128\], expected \[1, 17, 128\]",
        ),
        (lambda w: {**w, "temp": torch.tensor(-0.1)}, "temp is -0.1"),
        (lambda w: {"epoch": 3}, "holds no state dict"),
        (lambda w: {"model": {}}, "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit(
    spoil: Callable[[Weights], Weights], message: str, retrieval_case: GoldenCase, tmp_path: Path
) -> None:
    folder = retrieval_case.write_modelscope(tmp_path, spoil(dict(retrieval_case.weights)))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", None, "config.yaml is missing"),
        ("config.yaml", b"a: [", "is not yaml"),
        ("config.yaml", b"just words", "holds no settings"),
        ("config.yaml", b"clip_name: ViT-Z-9", "clip_name is 'ViT-Z-9'; known are ViT-B-16, ViT-L-14"),
        ("config.yaml", b"image_res: big", "image_res is 'big'; it must be a whole number"),
        ("config_bert.json", None, "config_bert.json is missing"),
        ("config_bert.json", b"{", "is not JSON"),
        ("config_bert.json", b"[]", "expected a JSON object"),
        ("config_bert.json", b"{}", "the BERT json lacks vocab_size"),
        ("vocab.txt", None, "vocab.txt is missing"),
        ("vocab.txt", b"a\nb\n", r"vocabulary lacks \[PAD\]"),
        ("pytorch_model.bin", None, "pytorch_model.bin is missing"),
        ("pytorch_model.bin", b"", "is not a whole torch file"),
        (
            "pytorch_model.bin",
            b"version https://git-lfs.github.com/spec/v1",
            "cannot be read as weights only",
        ),
    ],
)
def test_spoilt_modelscope_folders(
    name: str, content: bytes | None, message: str, retrieval_folder: Path
) -> None:
    if content is None:
        (retrieval_folder / name).unlink()
    else:
        (retrieval_folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(retrieval_folder)


def test_truncated_weights(retrieval_folder: Path) -> None:
    path = retrieval_folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="is not a whole torch file"):
        load(retrieval_folder)


def test_pickled_objects_are_never_run(retrieval_case: GoldenCase, tmp_path: Path) -> None:
    weights = {"model": retrieval_case.weights, "args": argparse.Namespace(lr=1e-5)}
    folder = retrieval_case.write_modelscope(tmp_path, weights)
    with pytest.raises(CheckpointError, match="save its state dict alone"):
        load(folder)


def test_larger_vocabulary_than_the_table(retrieval_folder: Path) -> None:
    with (retrieval_folder / "vocab.txt").open("a") as file:
        file.write("one more\n")
    with pytest.raises(CheckpointError, match=r"131 pieces, text_encoder.vocab_size is 130"):
        load(retrieval_folder)


def test_base_width_needs_no_bridge(tmp_path: Path) -> None:
    case = read_case("vqa_base")
    width, joint = case.bert["hidden_size"], case.settings["embed_dim"]
    heads = {
        **{f"{side}_proj.weight": torch.randn(joint, width) for side in ("vision", "text")},
        **{f"{side}_proj.bias": torch.randn(joint) for side in ("vision", "text")},
        "temp": torch.tensor(0.07),
    }
    model = load(case.write_modelscope(tmp_path, {**case.weights, **heads}))
    with torch.inference_mode():
        vectors = model.embed_images(some_pixels())
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2))
    assert not any("adapter" in key for key in model.report.loaded)


def test_checkpoints_of_other_tasks_have_encoders_only(tmp_path: Path) -> None:
    folder = read_case("vqa_base").write_modelscope(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"5 parameters that this task uses are missing: .*vision_proj.bias"
    ):
        load(folder)
    encoders = load_encoders(folder, dtype="bfloat16")
    assert type(encoders) is Encoders
    assert encoders.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "no-such-model"}, "neither a folder nor a model of this package"),
        ({"source": "open_clip:no-such"}, "open_clip has no model 'no-such'"),
        (
            {"task": "juggling"},
            "task is 'juggling'; known are retrieval, rerank, caption, vqa, image-text-retrieval, image-captioning, ",
        ),
        ({"source": "open_clip:RN50", "task": "vqa"}, "open_clip:RN50 is for retrieval"),
        ({"source": "open_clip:RN50", "image_size": 256}, "for captions, at its own image size"),
        ({"dtype": "int4"}, "dtype is 'int4'; known are float32, bfloat16, float16"),
        ({"device": "abacus"}, "device is 'abacus'"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=message):
        load(**{"source": tmp_path, **arguments})


def test_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"Looked for our own layout .* ModelScope's .* and the raw one"
    ):
        load(tmp_path)


def test_cuda_without_cuda(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(MplugError, match="torch sees no CUDA device"):
        load(tmp_path, device="cuda")


def test_raw_folder_with_two_checkpoints(retrieval_folder: Path) -> None:
    (retrieval_folder / "pytorch_model.bin").rename(retrieval_folder / "a.pth")
    (retrieval_folder / "b.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"must hold one weights file .* found a.pth, b.pth"):
        load(retrieval_folder)


# Our own folder.


@torch.inference_mode()
def test_own_folder_is_bit_equal(tmp_path: Path) -> None:
    model = tiny_model()
    native.save(model, tmp_path)
    again = load(tmp_path)
    assert torch.equal(again.embed_images(some_pixels()), model.embed_images(some_pixels()))
    assert torch.equal(again.embed_texts(*some_text()), model.embed_texts(*some_text()))
    assert again.fingerprint == model.fingerprint
    assert again.report.unknown == again.report.unused == ()


@torch.inference_mode()
def test_a_modelscope_folder_can_be_kept_as_our_own(retrieval_folder: Path, tmp_path: Path) -> None:
    model = load(retrieval_folder)
    assert isinstance(model, RetrievalModel)
    native.save(model, tmp_path / "own")
    again = load(tmp_path / "own")
    assert torch.equal(again.embed_images(some_pixels()), model.embed_images(some_pixels()))
    assert (again.name, again.fingerprint) == (model.name, model.fingerprint)


def test_own_folder_with_other_parts(tmp_path: Path) -> None:
    native.save(tiny_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {
        "text_decoder.x": torch.zeros(3, 2),
        "itm_head.weight": torch.zeros(2, 48),
        "odd": torch.zeros(1),
    }
    save_file({**tensors, **extra}, tmp_path / "model.safetensors")
    report = load(tmp_path).report
    assert (report.unused, report.unknown) == (("itm_head.weight", "text_decoder.x"), ("odd",))
    encoders = load_encoders(tmp_path).report
    assert {"image_proj.weight", "logit_scale", "text_decoder.x"} <= set(encoders.unused)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "config.json: "),
        ("config.json", b"[1]", "must be a JSON object"),
        ("config.json", b"{}", "missing keys in the configuration"),
        ("vocab.txt", None, "vocab.txt is missing"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("model.safetensors", b"oops", "is not a whole safetensors file"),
    ],
)
def test_spoilt_own_folders(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    native.save(tiny_model(), tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_own_folder_with_another_configuration(tmp_path: Path) -> None:
    native.save(tiny_model(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["text_encoder"]["layers"] = 2
    values["embed_dim"] = 8
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match=r"16 parameters .* missing: text_encoder.layers.1.* 4 have another shape"
    ):
        load(tmp_path)


def test_yaml_beside_our_own_files_changes_nothing(tmp_path: Path) -> None:
    native.save(tiny_model(), tmp_path)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"epochs": 3}))
    assert load(tmp_path).name == "tiny"
