"""Which layers the fusion encoder has, and what they may and may not do; its numbers are in test_golden.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mplug.config import FusionEncoderConfig
from mplug.fusion_encoder import FusionEncoder
from mplug.layers import BertLayer, CrossLayer

WIDTH = 16


def encoder(layers: int = 4, stride_layer: int = 2, *, seed: int = 0) -> FusionEncoder:
    config = FusionEncoderConfig(
        hidden=WIDTH, layers=layers, stride_layer=stride_layer, heads=2, ffn=24, memory_width=WIDTH
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FusionEncoder(config).eval()


def some_states(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("layers", "stride_layer", "connected"),
    [
        (6, 3, (3,)),  # mPLUG-base
        (6, 6, ()),  # mPLUG-large
        (5, 2, (2, 4)),
        (4, 3, (3,)),
        (3, 1, (1, 2)),
        (1, 1, ()),
        (7, 3, (3, 6)),
    ],
)
def test_connected_layers(layers: int, stride_layer: int, connected: tuple[int, ...]) -> None:
    model = encoder(layers, stride_layer)
    assert model.config.connected_layers == connected
    assert len(model.layers) == layers
    for number, layer in enumerate(model.layers):
        assert type(layer) is (BertLayer if number in connected else CrossLayer), number


@torch.inference_mode()
def test_without_connected_layers_the_image_leaves_as_it_came() -> None:
    image, text = some_states(2, 5), some_states(2, 3, seed=2)
    out_image, out_text = encoder(stride_layer=4)(image, text, text_mask_BL=torch.ones(2, 3))
    assert out_image is image
    assert out_text.shape == text.shape
    assert not torch.allclose(out_text, text)


@torch.inference_mode()
def test_a_connected_layer_adds_to_the_image_that_came_in() -> None:
    model = encoder(layers=2, stride_layer=1)
    image, text = some_states(2, 5), some_states(2, 3, seed=2)
    asked = model.layers[0](text, image)
    joint = model.layers[1](torch.cat([image, asked], 1))
    out_image, out_text = model(image, text, text_mask_BL=torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(out_image, image + joint[:, :5])
    torch.testing.assert_close(out_text, joint[:, 5:])


def test_inputs_are_not_changed_and_gradients_flow() -> None:
    # The reference adds in place: it changes the caller's tokens, and backward fails.
    model = encoder(layers=5, stride_layer=2).train()
    image, text = some_states(2, 5).requires_grad_(), some_states(2, 3, seed=2).requires_grad_()
    kept = image.detach().clone()
    out_image, out_text = model(image, text, text_mask_BL=torch.ones(2, 3, dtype=torch.bool))
    (out_image.sum() + out_text.square().sum()).backward()
    assert torch.equal(image, kept)
    assert image.grad is not None
    assert text.grad is not None
    unmoved = [name for name, p in model.named_parameters() if p.grad is None]
    assert unmoved == []


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    padding=st.integers(1, 4),
    stride_layer=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
@torch.inference_mode()
def test_padding_and_neighbours_change_nothing(
    lengths: list[int], padding: int, stride_layer: int, seed: int
) -> None:
    model = encoder(stride_layer=stride_layer, seed=seed)
    longest = max(lengths) + padding
    image, text = some_states(len(lengths), 5, seed=seed), some_states(len(lengths), longest, seed=seed + 1)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    images, texts = model(image, text, text_mask_BL=mask)
    for row, length in enumerate(lengths):
        alone_image, alone_text = model(
            image[row : row + 1], text[row : row + 1, :length], text_mask_BL=mask[row : row + 1, :length]
        )
        torch.testing.assert_close(images[row], alone_image[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(texts[row, :length], alone_text[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_int64_masks_do_as_bool_ones_do() -> None:
    model, image, text = encoder(), some_states(1, 5), some_states(1, 3, seed=2)
    mask = torch.tensor([[1, 1, 0]])
    for ours, theirs in zip(
        model(image, text, text_mask_BL=mask), model(image, text, text_mask_BL=mask.bool()), strict=True
    ):
        assert torch.equal(ours, theirs)
