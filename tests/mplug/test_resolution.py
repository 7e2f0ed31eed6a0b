"""Models at another image size than their checkpoint's."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import mplug
from benchmarks.memory import measure_memory
from golden.mplug_cases import some_pixels, tiny, tiny_config, tiny_model
from mplug.checkpoints import modelscope, native
from mplug.checkpoints.resolution import at_image_size, resize_positions
from mplug.config import ImageEncoderConfig
from mplug.errors import ConfigError
from mplug.image_encoder import ImageEncoder
from mplug.pipelines import PIPELINE_TASKS
from mplug.preprocess import PreprocessConfig
from mplug.retrieval import RetrievalModel
from mplug.tasks import TASKS

SIZES = [256, 384, 512, 576, 768]
TOWERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "timm": (
        "timm:vit_base_patch16_clip_quickgelu_224",
        {"img_size": 64, "patch_size": 32, "embed_dim": 64, "depth": 1, "num_heads": 1},
        1,
    ),
    "open_clip": (
        "open_clip:ViT-B-16-quickgelu",
        {"image_size": 64, "patch_size": 32, "width": 64, "layers": 1},
        1,
    ),
    "no class token": (
        "timm:vit_base_patch16_siglip_gap_224",
        {"img_size": 64, "patch_size": 32, "embed_dim": 64, "depth": 1, "num_heads": 1},
        1,
    ),
    "registers": (
        "timm:vit_small_patch14_reg4_dinov2",
        {"img_size": 64, "patch_size": 32, "embed_dim": 64, "depth": 1, "num_heads": 1},
        5,
    ),
}


def model_with(tower: str) -> RetrievalModel:
    backbone, options, _ = TOWERS[tower]
    encoder = ImageEncoderConfig(backbone=backbone, backbone_options=options, width=64, adapter_width=48)
    model = tiny_model(tiny_config(image_encoder=encoder, preprocess=PreprocessConfig(image_size=64)))
    for name, parameter in model.image_encoder.named_parameters():
        if "pos" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(5))
    return model


def table_of(model: RetrievalModel) -> Tensor:
    state = model.image_encoder.state_dict()
    (table,) = (tensor for name, tensor in state.items() if name.split(".")[-1].startswith("pos"))
    rows: Tensor = table.reshape(-1, table.shape[-1])
    return rows


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tower", TOWERS)
@torch.inference_mode()
def test_towers_take_pictures_of_other_sizes(tower: str, size: int) -> None:
    model = model_with(tower)
    before, vectors = table_of(model), model.embed_images(some_pixels(size=64))

    assert at_image_size(model, size) is model

    prefix = len(before) - 4
    assert torch.equal(table_of(model)[:prefix], before[:prefix])
    assert torch.equal(table_of(model), resize_positions(before, size // 32, prefix=prefix))
    tokens = model.encode_image(some_pixels(size=size))
    assert tokens.shape == (2, TOWERS[tower][2] + (size // 32) ** 2, 48)
    assert model.preprocess.image_size == size
    with pytest.raises(ValueError, match=f"expected uint8 \\(B, 3, {size}, {size}\\)"):
        model.encode_image(some_pixels(size=64))
    at_image_size(model, 64)
    assert model.embed_images(some_pixels(size=64)).shape == vectors.shape


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_folders_of_every_task_load_and_run_at_every_size(size: int, tmp_path: Path) -> None:
    load: Any = mplug.load  # Any: the task is a variable
    for task, kind in TASKS.items():
        native.save(tiny(kind), tmp_path / task)
        model = load(tmp_path / task, task=task, image_size=size)
        assert model.encode_image(some_pixels(1, size)).shape == (1, 1 + (size // 16) ** 2, 48)
    vectors = load(tmp_path / "retrieval", image_size=size).embed_images(some_pixels(1, size))
    assert float(vectors.norm()) == pytest.approx(1)
    picture = Image.fromarray(some_pixels(1, 40)[0].permute(1, 2, 0).numpy())
    for name, task in PIPELINE_TASKS.items():
        answer = mplug.pipeline(name, tmp_path / task, image_size=size)
        assert answer((picture, "piece9"))


def encoder_at(size: int, library: str) -> ImageEncoder:
    """Two heads: torch's own attention leaves its fast path for an odd number of them."""
    backbone, options = {
        "timm": (
            "timm:vit_base_patch16_clip_quickgelu_224",
            {"img_size": size, "embed_dim": 128, "depth": 2, "num_heads": 2},
        ),
        "open_clip": ("open_clip:ViT-B-16-quickgelu", {"image_size": size, "width": 128, "layers": 2}),
    }[library]
    config = ImageEncoderConfig(backbone=backbone, backbone_options=options, width=128)
    return ImageEncoder(config, PreprocessConfig(image_size=size)).eval()


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_memory_grows_with_the_visual_length_and_not_with_its_square(library: str) -> None:
    memory = {
        size: measure_memory(partial(encoder_at(size, library), some_pixels(1, size))) for size in (256, 768)
    }
    tokens = {size: 1 + (size // 16) ** 2 for size in memory}
    growth = tokens[768] / tokens[256]
    assert memory[768].peak / memory[256].peak == pytest.approx(growth, rel=0.05)
    assert memory[768].largest < weights_bytes(tokens[768]) / 4


def test_attention_that_holds_its_weights_is_seen() -> None:
    encoder = encoder_at(256, "timm")
    for block in encoder.backbone.tower.blocks:
        block.attn.fused_attn = False
    assert measure_memory(partial(encoder, some_pixels(1, 256))).largest >= weights_bytes(257)


def weights_bytes(tokens: int) -> int:
    """What one layer's attention weights would be: float32, two heads."""
    return 2 * tokens * tokens * 4


@pytest.mark.parametrize("size", [48, 64])
@torch.inference_mode()
def test_both_libraries_agree_at_another_size(size: int, retrieval_folder: Path) -> None:
    models = [
        at_image_size(modelscope.load(retrieval_folder, RetrievalModel, vision_library=library), size)
        for library in ("timm", "open_clip")
    ]
    timms, open_clips = (model.encode_image(some_pixels(size=size)) for model in models)
    assert float((timms - open_clips).abs().max() / timms.abs().max()) < 1e-5
    assert models[0].config.image_encoder.backbone_options["img_size"] == size
    assert models[1].config.image_encoder.backbone_options["image_size"] == size


@torch.inference_mode()
def test_a_resized_model_is_saved_and_loaded_as_such(retrieval_folder: Path, tmp_path: Path) -> None:
    model = at_image_size(modelscope.load(retrieval_folder, RetrievalModel), 64)
    native.save(model, tmp_path / "resized")
    again = native.load(tmp_path / "resized", RetrievalModel)
    pixels = some_pixels(size=64)
    assert torch.equal(again.embed_images(pixels), model.embed_images(pixels))
    assert again.fingerprint == model.fingerprint


def test_another_size_is_another_index(retrieval_folder: Path) -> None:
    model = modelscope.load(retrieval_folder, RetrievalModel)
    before = model.fingerprint
    at_image_size(model, 32)
    assert model.fingerprint == before, "the size that it has already"
    at_image_size(model, 64)
    assert model.fingerprint != before
    assert not model.training


@torch.inference_mode()
def test_a_cnn_has_no_table_and_takes_any_size() -> None:
    encoder = ImageEncoderConfig(backbone="timm:resnet18", width=512, adapter_width=48)
    model = tiny_model(tiny_config(image_encoder=encoder, preprocess=PreprocessConfig(image_size=64)))
    tensors = dict(model.image_encoder.state_dict())
    at_image_size(model, 96)
    assert model.encode_image(some_pixels(size=96)).shape == (2, 1 + 9, 48)
    assert all(
        torch.equal(tensor, tensors[name]) for name, tensor in model.image_encoder.state_dict().items()
    )


def test_a_model_keeps_its_dtype() -> None:
    model = at_image_size(model_with("timm").to(torch.bfloat16), 96)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("size", "message"), [(100, "take 96 or 128"), (31, "take 32 or 64"), (0, "take 32 or 64")]
)
def test_sizes_that_cut_patches_are_refused(size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"image_size is {size}.*patches of 32 pixels: {message}"):
        at_image_size(model_with("timm"), size)


def test_towers_with_other_tables_say_so() -> None:
    options = {"img_size": 64, "depth": 1, "embed_dim": 64, "num_heads": 1}
    encoder = ImageEncoderConfig(
        backbone="timm:beit_base_patch16_224", backbone_options=options, width=64, adapter_width=48
    )
    model = tiny_model(tiny_config(image_encoder=encoder, preprocess=PreprocessConfig(image_size=64)))
    with pytest.raises(
        ConfigError, match=r"relative_position_bias_table would have to change from \(52, 1\)"
    ):
        at_image_size(model, 128)


@given(old=st.integers(1, 9), grid=st.integers(1, 12), prefix=st.integers(0, 3), seed=st.integers(0, 1000))
def test_every_row_is_the_mean_of_its_neighbours_weighted_by_nearness(
    old: int, grid: int, prefix: int, seed: int
) -> None:
    table = torch.randn(prefix + old * old, 3, generator=torch.Generator().manual_seed(seed))
    resized = resize_positions(table, grid, prefix=prefix)
    assert torch.equal(resized[:prefix], table[:prefix])
    cells = table[prefix:].view(old, old, 3)

    def sources(index: int) -> list[tuple[int, float]]:
        # Centres of cells lie at halves; what would lie beyond the outermost centres is the outermost cell.
        place = max((index + 0.5) * old / grid - 0.5, 0.0)
        low = min(math.floor(place), old - 1)
        share = place - low
        return [(low, 1 - share), (min(low + 1, old - 1), share)]

    for row in range(grid):
        for column in range(grid):
            expected = sum(
                (dy * dx * cells[y, x] for y, dy in sources(row) for x, dx in sources(column)), torch.zeros(3)
            )
            assert torch.allclose(resized[prefix + row * grid + column], expected, atol=1e-5)


@pytest.mark.parametrize(("rows", "prefix"), [(6, 1), (1, 1), (0, 1), (3, 0)])
def test_tables_without_a_square_are_refused(rows: int, prefix: int) -> None:
    with pytest.raises(ValueError, match=f"a table of {rows} rows is no square grid"):
        resize_positions(torch.zeros(rows, 4), 3, prefix=prefix)
