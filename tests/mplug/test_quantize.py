from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file
from torch import Tensor

from golden.mplug_cases import some_pixels, some_text, tiny_model
from mplug.checkpoints import native
from mplug.checkpoints.quantize import quantize, quantize_rows, widen, widen_rows
from mplug.loading import load

matrices = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements=st.floats(-1000, 1000, width=32),
)


@given(matrices)
def test_the_error_is_at_most_half_a_step(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values)
    levels, scale = quantize_rows(tensor)
    assert (levels.dtype, levels.shape) == (torch.int8, tensor.shape)
    assert (scale.dtype, scale.shape) == (torch.float16, (len(tensor),))
    error = (widen_rows(levels, scale) - tensor).abs().flatten(1).amax(1)
    # Half a step, and what rounding the scale costs at 127 steps: 2^-11, or 2^-25 where float16 gets coarse.
    steps = scale.float()
    assert (error <= steps / 2 + 127 * (steps * 2**-10 + 2**-24)).all()


@given(matrices)
def test_widened_tensors_quantize_to_themselves(values: np.ndarray) -> None:
    once = widen(quantize({"w": torch.from_numpy(values)}))["w"]
    twice = widen(quantize({"w": once}))["w"]
    assert torch.allclose(once, twice, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4),
        torch.full((2, 2), 1e-9),
        torch.full((2, 2), 1e6),
        torch.zeros(0, 4),
        torch.zeros(3, 0),
    ],
    ids=["zeros", "tiny", "large", "no rows", "no columns"],
)
def test_edges_stay_finite(tensor: Tensor) -> None:
    levels, scale = quantize_rows(tensor)
    widened = widen_rows(levels, scale)
    assert widened.shape == tensor.shape
    assert widened.isfinite().all()
    assert torch.allclose(widened, tensor, rtol=1e-2, atol=1e-4)


def test_only_float_matrices_are_rounded() -> None:
    tensors = {"matrix": torch.randn(3, 4), "bias": torch.randn(3), "count": torch.tensor([[1, 2]])}
    stored = quantize(tensors)
    assert {key: tensor.dtype for key, tensor in stored.items()} == {
        "matrix": torch.int8,
        "matrix.scale": torch.float16,
        "bias": torch.float32,
        "count": torch.int64,
    }
    assert widen(tensors) == tensors


@torch.inference_mode()
def test_int8_folders_keep_the_vectors(tmp_path: Path) -> None:
    model = tiny_model()
    native.save(model, tmp_path / "int8", storage="int8")
    native.save(model, tmp_path / "float32")
    stored = load_file(tmp_path / "int8" / "model.safetensors")
    assert stored["text_encoder.layers.0.attention.query.weight"].dtype == torch.int8
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("int8", "float32")}
    assert sizes["int8"] < 0.35 * sizes["float32"]

    again = load(tmp_path / "int8")

    cosine = torch.nn.functional.cosine_similarity
    assert cosine(again.embed_images(some_pixels()), model.embed_images(some_pixels())).min() >= 0.999
    assert cosine(again.embed_texts(*some_text()), model.embed_texts(*some_text())).min() >= 0.999
    assert again.fingerprint != model.fingerprint
    assert again.fingerprint == load(tmp_path / "int8").fingerprint
