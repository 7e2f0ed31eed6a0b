from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision import transforms

from golden.mplug_cases import some_pixels, tiny_config, tiny_model
from mplug.config import ImageEncoderConfig
from mplug.errors import ConfigError
from mplug.image_encoder import ImageEncoder, normalise
from mplug.preprocess import CLIP_MEAN, CLIP_STD, PreprocessConfig

CNN = ImageEncoderConfig(backbone="timm:tf_efficientnet_lite0", width=1280, adapter_width=48)


@pytest.fixture(scope="module")
def cnn() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(CNN, PreprocessConfig(image_size=64)).eval()


@torch.inference_mode()
def test_the_last_map_becomes_tokens(cnn: ImageEncoder) -> None:
    pixels = some_pixels(size=64)
    tower: Any = cnn.backbone.tower
    last_map = tower.forward_features(cnn.normalised(pixels))

    tokens = cnn.backbone(cnn.normalised(pixels))

    assert tokens.shape == (2, 1 + 2 * 2, 1280)
    assert torch.allclose(tokens[:, 0], last_map.mean(dim=(2, 3)), atol=1e-6)
    for cell in range(4):
        assert torch.equal(tokens[:, 1 + cell], last_map[:, :, cell // 2, cell % 2])
    assert cnn(pixels).shape == (2, 5, 48)


@torch.inference_mode()
def test_parted_at_any_stage_it_is_the_same_encoder(cnn: ImageEncoder) -> None:
    pixels = some_pixels(size=64)
    whole = cnn(pixels)
    assert cnn.num_stages == 7
    for depth in range(cnn.num_stages + 1):
        assert torch.equal(cnn.trunk(cnn.stem(pixels, depth), depth), whole), depth


def test_only_the_trunk_is_trained_when_the_stem_is_cached(cnn: ImageEncoder) -> None:
    with torch.no_grad():
        features = cnn.stem(some_pixels(size=64), 6)
    assert features.shape == (2, 192, 2, 2)
    torch.autograd.backward(cnn.trunk(features, 6).sum())
    trained = {
        name.split(".")[3] for name, p in cnn.named_parameters() if p.grad is not None and ".blocks." in name
    }
    cnn.zero_grad()
    assert trained == {"6"}


def test_towers_that_cannot_be_parted_say_so() -> None:
    encoder = tiny_model().image_encoder
    assert encoder.num_stages == 0
    with pytest.raises(ConfigError, match="VisionTransformer has no stages to part"):
        encoder.stem(some_pixels(), 1)
    with pytest.raises(ConfigError, match="VisionTransformer has no stages to part"):
        encoder.trunk(torch.zeros(1, 4, 2, 2), 1)


def test_depth_is_checked(cnn: ImageEncoder) -> None:
    with pytest.raises(ConfigError, match="depth is 8; this tower has 7 stages"):
        cnn.stem(some_pixels(size=64), 8)


@pytest.mark.parametrize(
    ("backbone", "options", "width", "tokens"),
    [
        ("timm:resnet18", {}, 512, 5),
        ("timm:vit_tiny_patch16_224", {"img_size": 64, "depth": 1}, 192, 17),
        (
            "timm:vit_base_patch16_siglip_gap_224",
            {"img_size": 64, "depth": 1, "embed_dim": 64, "num_heads": 1},
            64,
            17,
        ),
        ("timm:swin_tiny_patch4_window7_224", {"img_size": 224, "depths": [1, 1, 1, 1]}, 768, 50),
        ("open_clip:ViT-B-32", {"image_size": 64, "layers": 1, "width": 64}, 64, 5),
    ],
)
@torch.inference_mode()
def test_towers_by_name(backbone: str, options: dict[str, Any], width: int, tokens: int) -> None:
    size = options.get("img_size", options.get("image_size", 64))
    config = ImageEncoderConfig(backbone=backbone, backbone_options=options, width=width)
    encoder = ImageEncoder(config, PreprocessConfig(image_size=size)).eval()
    assert encoder(some_pixels(size=size)).shape == (2, tokens, width)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vit_base_patch16_224"}, "write timm:NAME or open_clip:NAME"),
        ({"backbone": "keras:vit"}, "write timm:NAME or open_clip:NAME"),
        ({"backbone": "timm:no_such_model"}, "timm has no model 'no_such_model'"),
        (
            {"backbone": "timm:resnet18", "backbone_options": {"wings": 2}},
            "timm cannot build 'resnet18' with",
        ),
        ({"backbone": "timm:resnet18", "width": 100}, "resnet18 is 512 wide, image_encoder.width is 100"),
        ({"backbone": "timm:vit_tiny_patch16_224", "width": 192}, r"built for \(224, 224\) pixels"),
        ({"backbone": "timm:hf-hub:someone/model"}, "timm has no model 'hf-hub:someone/model'"),
        (
            {"backbone": "timm:resnet18", "backbone_options": {"checkpoint_path": "/etc/passwd"}},
            "backbone_options may not hold checkpoint_path",
        ),
        ({"backbone": "open_clip:no-such"}, "open_clip has no model 'no-such'"),
        ({"backbone": "open_clip:RN50"}, "has no CLIP ViT as its tower"),
        (
            {"backbone": "open_clip:ViT-B-32", "backbone_options": {"wings": 2}},
            "open_clip cannot build the tower",
        ),
    ],
)
def test_wrong_towers_are_named(changes: dict[str, Any], message: str) -> None:
    config = ImageEncoderConfig(**{"width": 512, **changes})
    with pytest.raises(ConfigError, match=message):
        ImageEncoder(config, PreprocessConfig(image_size=64))


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(1, 3, 32, 32),
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
    ],
)
def test_pixels_of_another_kind_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 3, 32, 32\)"):
        tiny_model().encode_image(pixels)


@pytest.mark.parametrize(("mean", "std"), [(CLIP_MEAN, CLIP_STD), ((0.498,) * 3, (0.502,) * 3)])
def test_every_byte_is_normalised_as_torchvision_does(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1).contiguous()
    picture = transforms.ToPILImage()(ramp)
    expected = transforms.Normalize(mean, std)(transforms.ToTensor()(picture))
    assert torch.equal(normalise(ramp[None], mean, std)[0], expected)
    assert ramp.dtype == torch.uint8
    assert int(ramp.sum()) == 3 * sum(range(256))


def test_retrieval_model_trains() -> None:
    model = tiny_model(tiny_config()).train()
    ids = torch.tensor([[101, 7, 102], [101, 8, 102]])
    similarity = (
        model.embed_images(some_pixels()) @ model.embed_texts(ids, ids != 0).T * model.logit_scale.exp()
    )
    torch.autograd.backward(torch.nn.functional.cross_entropy(similarity, torch.arange(2)))
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
