"""Each task's model from each layout of folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden.mplug_cases import GoldenCase, read_case, some_pixels, some_text, tiny
from mplug.captioning import CaptionModel
from mplug.checkpoints import native
from mplug.checkpoints.quantize import quantize, widen
from mplug.checkpoints.report import MismatchError
from mplug.errors import CheckpointError, MplugError
from mplug.loading import load, survey
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.task_model import LoadedModel, TaskModel
from mplug.tasks import MODELSCOPE_TASKS, TASKS, TaskSize
from mplug.vqa import VqaModel

Weights = dict[str, Any]
IDS = torch.tensor([[101, 7, 8, 102], [101, 9, 102, 0]])
BIAS = "text_decoder.cls.predictions.bias"
SECOND_BIAS = "text_decoder.cls.predictions.decoder.bias"
WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"
SECOND_WORDS = "text_decoder.cls.predictions.decoder.weight"


@pytest.fixture(scope="module")
def vqa_case() -> GoldenCase:
    return read_case("vqa_base")


def modules(model: object) -> set[str]:
    assert isinstance(model, torch.nn.Module)
    return {name.split(".")[0] for name, _ in model.named_parameters()}


def outputs(model: LoadedModel, image_size: int = 32) -> list[Tensor]:
    """What a task's model is asked for."""
    pixels, (ids, mask) = some_pixels(size=image_size), some_text()
    if isinstance(model, RetrievalModel):
        return [model.embed_images(pixels), model.embed_texts(ids, mask)]
    if isinstance(model, RerankModel):
        return [model.itm_scores(model.encode_image(pixels), ids, mask)]
    if isinstance(model, CaptionModel):
        return [model.text_decoder(IDS, model.encode_image(pixels))]
    assert isinstance(model, VqaModel)
    memory, memory_mask = model.decoder_memory(model.encode_image(pixels), ids, mask)
    return [memory, model.text_decoder(IDS, memory, memory_mask_BN=memory_mask)]


# Only what the task needs.


@pytest.mark.parametrize(
    ("task", "case", "expected"),
    [
        (
            "retrieval",
            "retrieval_large",
            {"image_encoder", "text_encoder", "image_proj", "text_proj", "logit_scale"},
        ),
        ("rerank", "retrieval_large", {"image_encoder", "text_encoder", "fusion_encoder", "itm_head"}),
        ("caption", "caption_large", {"image_encoder", "text_decoder"}),
        ("vqa", "vqa_large", {"image_encoder", "text_encoder", "fusion_encoder", "text_decoder"}),
    ],
)
def test_a_task_builds_only_what_it_needs(task: Any, case: str, expected: set[str], tmp_path: Path) -> None:
    golden = read_case(case)
    folder = golden.write_modelscope(tmp_path)
    model = load(folder, task=task)
    assert type(model) is TASKS[task]
    assert modules(model) == expected
    assert isinstance(model, TaskModel)
    assert not model.training
    report = model.report
    assert len(report.loaded) + len(report.unused) == len(golden.weights)
    assert (report.missing, report.mis_shaped, report.unknown) == ((), (), ())
    aliases: list[Any] = [alias for alias, ours in MODELSCOPE_TASKS.items() if ours == task]
    for alias in aliases:
        assert type(load(folder, task=alias)) is TASKS[task]


def test_the_report_names_what_no_task_uses(tmp_path: Path) -> None:
    unused = load(read_case("vqa_large").write_modelscope(tmp_path), task="vqa").report.unused
    # 6 layers are stored, 5 run, every second one is connected: 1 is dead, of 3 and 5 the cross-attention is.
    for key in (
        "fusion_encoder.encoder.layer.0.attention.self.query.weight",
        "fusion_encoder.encoder.layer.3.crossattention.self.key.weight",
        "fusion_encoder.encoder.layer.5.crossattention.output.LayerNorm.bias",
        SECOND_BIAS,
        SECOND_WORDS,
        "text_decoder.bert.embeddings.position_ids",
        "visual_encoder.visual.proj",
    ):
        assert key in unused, key
    assert not any(".layer.1." in key or "layer.3.attention" in key for key in unused)


def test_momentum_twins_are_skipped(tmp_path: Path) -> None:
    case = read_case("vqa_distill")
    report = load(case.write_modelscope(tmp_path), task="vqa").report
    twins = {key for key in case.weights if key.split(".")[0].endswith("_m")}
    assert len(twins) == 181
    assert twins <= set(report.unused)


# Keys that are not there, twice there, or not known.


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("caption", BIAS.replace(".bias", ".transform.dense.weight")),
        ("caption", "text_decoder.bert.encoder.layer.0.crossattention.self.key.weight"),
        ("vqa", "fusion_encoder.encoder.layer.1.crossattention.output.dense.bias"),
        ("vqa", "fusion_encoder.encoder.layer.4.attention.self.query.weight"),
    ],
)
def test_a_renamed_key_is_named(
    task: Literal["caption", "vqa"], key: str, vqa_case: GoldenCase, tmp_path: Path
) -> None:
    weights = {name if name != key else f"{name}_renamed": t for name, t in vqa_case.weights.items()}
    with pytest.raises(MismatchError, match=f"1 parameters that this task uses are missing: {key}") as caught:
        load(vqa_case.write_modelscope(tmp_path, weights), task=task)
    assert caught.value.report.unknown == (f"{key}_renamed",)
    again = copy.copy(caught.value)
    assert (str(again), again.report) == (str(caught.value), caught.value.report)


def test_what_a_task_does_not_use_may_be_missing(vqa_case: GoldenCase, tmp_path: Path) -> None:
    dead = (
        "fusion_encoder.encoder.layer.0.",
        "visual_encoder.transformer.",
        "text_encoder.embeddings.position_ids",
    )
    kept = {key: tensor for key, tensor in vqa_case.weights.items() if not key.startswith(dead)}
    assert load(vqa_case.write_modelscope(tmp_path / "vqa", kept), task="vqa").report.unknown == ()
    kept = {
        key: tensor
        for key, tensor in kept.items()
        if not key.startswith(("fusion_encoder.", "text_encoder."))
    }
    caption = load(vqa_case.write_modelscope(tmp_path / "caption", kept), task="caption")
    assert caption.report.missing == ()


def without(*keys: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key not in keys}


@pytest.mark.parametrize(
    "change",
    [
        without(SECOND_BIAS),
        without(BIAS),
        without(SECOND_WORDS),
        without(WORDS),
        without(SECOND_BIAS, SECOND_WORDS),
    ],
)
@torch.inference_mode()
def test_tied_tensors_may_be_stored_once(
    change: Callable[[Weights], Weights], vqa_case: GoldenCase, tmp_path: Path
) -> None:
    whole = load(vqa_case.write_modelscope(tmp_path / "whole"), task="caption")
    once = load(vqa_case.write_modelscope(tmp_path / "once", change(vqa_case.weights)), task="caption")
    assert torch.equal(outputs(once)[0], outputs(whole)[0])


@pytest.mark.parametrize("key", [SECOND_BIAS, SECOND_WORDS])
def test_tied_tensors_that_differ_are_refused(key: str, vqa_case: GoldenCase, tmp_path: Path) -> None:
    folder = vqa_case.write_modelscope(tmp_path, {**vqa_case.weights, key: vqa_case.weights[key] + 1})
    with pytest.raises(CheckpointError, match=f"and {key} differ, and are one tensor in mPLUG"):
        load(folder, task="caption")
    with pytest.raises(CheckpointError, match="5 parameters that this task uses are missing"):
        load(folder, task="retrieval")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride_layer": 0}, "fusion_encoder.stride_layer is 0"),
        ({"fusion_layers": "six"}, "fusion_layers is 'six'; it must be a whole number"),
        ({"fusion_layers": 0}, "fusion_encoder.layers is 0"),
        ({"text_decode_layers": 2.5}, "text_decode_layers is 2.5"),
        ({"encoder_width": 32}, "fusion_encoder.memory_width is 32"),
        ({"fusion_layers": 9}, None),
        ({"encoder_width": 64}, None),
    ],
)
def test_settings_of_fusion_and_decoder(
    changes: dict[str, Any], message: str | None, vqa_case: GoldenCase, tmp_path: Path
) -> None:
    case = copy.copy(vqa_case)
    object.__setattr__(case, "bert", {**case.bert, **changes})
    folder = case.write_modelscope(tmp_path)
    if message is None:
        config = load(folder, task="vqa").config.fusion_encoder
        assert config is not None
        # More layers asked for than stored: all stored ones run (start = max(0, ...)).
        assert config.layers == (5 if "fusion_layers" in changes else 4)
        return
    with pytest.raises(CheckpointError, match=message):
        load(folder, task="vqa")


def test_a_json_without_fusion_says_so(vqa_case: GoldenCase, tmp_path: Path) -> None:
    case = copy.copy(vqa_case)
    bert = {key: value for key, value in case.bert.items() if key != "stride_layer"}
    object.__setattr__(case, "bert", bert)
    folder = case.write_modelscope(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"the configuration has no fusion_encoder, which the task 'vqa' needs"
    ):
        load(folder, task="vqa")
    assert load(folder, task="caption").report.unknown == ()


def test_generation_defaults_are_the_checkpoints_own(vqa_case: GoldenCase, tmp_path: Path) -> None:
    generation = load(vqa_case.write_modelscope(tmp_path / "own"), task="caption").config.generation
    assert (generation.min_length, generation.max_length, generation.beam_size) == (1, 8, 3)
    case = copy.copy(vqa_case)
    settings = {key: value for key, value in case.settings.items() if key not in ("max_length", "beam_size")}
    object.__setattr__(case, "settings", {**settings, "min_length": 2})
    generation = load(case.write_modelscope(tmp_path / "default"), task="caption").config.generation
    assert (generation.min_length, generation.max_length, generation.beam_size) == (2, 10, 5)


# The raw layout and our own.


@torch.inference_mode()
def test_raw_layout_of_the_answering_scripts(vqa_case: GoldenCase, tmp_path: Path) -> None:
    weights = {
        key
        if key.startswith("text_decoder")
        else key.replace("text_encoder.", "text_encoder.bert.").replace(
            "fusion_encoder.", "fusion_encoder.fusion."
        ): tensor
        for key, tensor in vqa_case.weights.items()
    }
    folder = vqa_case.write_modelscope(tmp_path / "raw", weights)
    (folder / "config.yaml").rename(folder / "vqa_mplug_base.yaml")
    (folder / "pytorch_model.bin").rename(folder / "checkpoint_07.pth")
    raw = load(folder, task="vqa")
    theirs = load(vqa_case.write_modelscope(tmp_path / "modelscope"), task="vqa")
    assert raw.report.unknown == ()
    for ours, expected in zip(outputs(raw), outputs(theirs), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", TASKS.values(), ids=list(TASKS))
@torch.inference_mode()
def test_own_folder_is_bit_equal_for_every_task(kind: type[TaskModel], tmp_path: Path) -> None:
    model = tiny(kind)
    native.save(model, tmp_path)
    again = native.load(tmp_path, kind)
    assert type(again) is kind
    assert again.report.unknown == again.report.unused == ()
    for ours, expected in zip(outputs(again), outputs(model), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", TASKS.values(), ids=list(TASKS))
@torch.inference_mode()
def test_own_folder_in_int8_gives_the_widened_weights(kind: type[TaskModel], tmp_path: Path) -> None:
    model = tiny(kind)
    native.save(model, tmp_path, storage="int8")
    again = native.load(tmp_path, kind)
    for name, tensor in widen(quantize(model.state_dict())).items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for ours, expected in zip(outputs(again), outputs(model), strict=True):
        assert (ours - expected).abs().max() / expected.abs().max() < 0.2
    whole, quarter = tmp_path / "float32", tmp_path / "model.safetensors"
    native.save(model, whole)
    assert quarter.stat().st_size < 0.4 * (whole / "model.safetensors").stat().st_size


def test_the_tied_matrix_is_stored_once(tmp_path: Path) -> None:
    native.save(tiny(CaptionModel), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert [key for key, tensor in stored.items() if tuple(tensor.shape) == (130, 48)] == [
        "text_decoder.embeddings.word.weight"
    ]


@torch.inference_mode()
def test_own_folder_of_one_task_serves_those_that_need_less(tmp_path: Path) -> None:
    vqa = tiny(VqaModel)
    native.save(vqa, tmp_path)
    caption = load(tmp_path, task="caption")
    expected = vqa.text_decoder(IDS, vqa.encode_image(some_pixels()))
    assert torch.equal(outputs(caption)[0], expected)
    assert {key.split(".")[0] for key in caption.report.unused} == {"text_encoder", "fusion_encoder"}
    with pytest.raises(CheckpointError, match="2 parameters that this task uses are missing: itm_head"):
        load(tmp_path, task="rerank")


def test_own_folder_describes_only_what_it_holds(tmp_path: Path) -> None:
    model = tiny(RetrievalModel)
    assert model.config.text_decoder is not None
    native.save(model, tmp_path)
    config = native.read_config(tmp_path / "config.json")
    assert (config.fusion_encoder, config.text_decoder) == (None, None)
    with pytest.raises(CheckpointError, match="no text_decoder, which the task 'caption' needs"):
        load(tmp_path, task="caption")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.inference_mode()
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    native.save(tiny(VqaModel), tmp_path)
    full, half = load(tmp_path, task="vqa"), load(tmp_path, task="vqa", dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    for ours, expected in zip(outputs(half), outputs(full), strict=True):
        assert (ours.float() - expected).abs().max() / expected.abs().max() < 0.05


@pytest.mark.parametrize(("task", "case"), [("retrieval", "retrieval_large"), ("vqa", "vqa_base")])
@torch.inference_mode()
def test_another_image_size(task: Any, case: str, tmp_path: Path) -> None:
    folder = read_case(case).write_modelscope(tmp_path)
    model = load(folder, task=task, image_size=48)
    assert isinstance(model, TaskModel)
    assert model.preprocess.image_size == 48
    assert all(torch.isfinite(each).all() for each in outputs(model, image_size=48))
    if isinstance(model, RetrievalModel):
        assert model.fingerprint != load(folder).fingerprint
    with pytest.raises(MplugError, match="image_size is 50"):
        load(folder, task=task, image_size=50)


# What a folder can do, without reading its weights.


def test_survey_of_folders(tmp_path: Path) -> None:
    native.save(tiny(VqaModel), tmp_path / "own")
    case = read_case("retrieval_large")
    folders = [tmp_path / "own", case.write_modelscope(tmp_path / "modelscope")]
    for folder, can in zip(folders, [{"caption", "vqa"}, {"retrieval", "rerank"}], strict=True):
        found = survey(folder)
        assert set(found) == set(TASKS)
        for task, size in found.items():
            assert isinstance(size, TaskSize) is (task in can)
            if isinstance(size, TaskSize):
                name: Any = task
                model = load(folder, task=name)
                assert size.parameters == model.num_parameters
                assert set(size.modules) == modules(model)
    assert survey(tmp_path / "own")["rerank"] == "lacks 2 parameters of itm_head"
    assert survey(tmp_path / "modelscope")["vqa"] == "lacks 62 parameters of text_decoder"


def test_survey_of_a_raw_folder_at_another_image_size(vqa_case: GoldenCase, tmp_path: Path) -> None:
    case = copy.copy(vqa_case)
    object.__setattr__(case, "settings", {**case.settings, "image_res": 48})
    folder = case.write_modelscope(tmp_path)
    assert survey(folder)["vqa"] == (
        "1 have another shape: visual_encoder.visual.positional_embedding: stored [1, 17, 64], expected [1, 37, 64]"
    )
    (folder / "config.yaml").rename(folder / "vqa.yaml")
    (folder / "pytorch_model.bin").rename(folder / "mplug.pth")
    assert isinstance(survey(folder)["vqa"], TaskSize)


def test_a_raw_table_that_is_no_grid_is_refused(vqa_case: GoldenCase, tmp_path: Path) -> None:
    key = "visual_encoder.visual.positional_embedding"
    folder = vqa_case.write_modelscope(tmp_path, {**vqa_case.weights, key: torch.zeros(16, 64)})
    (folder / "config.yaml").rename(folder / "vqa.yaml")
    (folder / "pytorch_model.bin").rename(folder / "mplug.pth")
    with pytest.raises(MismatchError, match=r"positional_embedding: stored \[1, 16, 64\]"):
        load(folder, task="vqa")


def test_survey_names_another_shape(vqa_case: GoldenCase, tmp_path: Path) -> None:
    weights = {**vqa_case.weights, BIAS: torch.zeros(131), SECOND_BIAS: torch.zeros(131)}
    found = survey(vqa_case.write_modelscope(tmp_path, weights))
    assert found["caption"] == f"1 have another shape: {BIAS}: stored [131], expected [130]"


def test_survey_of_int8_and_of_nothing(tmp_path: Path) -> None:
    native.save(tiny(RerankModel), tmp_path / "int8", storage="int8")
    found = survey(tmp_path / "int8")["rerank"]
    assert isinstance(found, TaskSize)
    assert found.parameters == tiny(RerankModel).num_parameters
    (tmp_path / "int8" / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.txt is missing"):
        survey(tmp_path / "int8")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        survey(tmp_path)
