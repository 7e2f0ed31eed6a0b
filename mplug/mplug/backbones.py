"""Vision towers by name: timm's or open_clip's, never written again here.

A tower is built without weights; they come from a checkpoint. Each kind is read as tokens:

* `TimmTokens`: a timm transformer, all tokens after the final norm, as CLIP's `ln_post` on every token.
* `TimmMap`: a timm CNN (or any model with a last map), [mean of the map; its cells, row by row].
* `EfficientNetMap`: such a CNN that can be parted into stages.
* `OpenClipTokens`: an open_clip CLIP ViT, [class token; patches] after `ln_post`, without the projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, VisionTransformer
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from mplug.config import BackboneOption, ImageEncoderConfig
from mplug.errors import ConfigError

# timm's arguments that load files or weights, or change what comes out: not a configuration's to set.
FORBIDDEN_OPTIONS = {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
    "num_classes",
    "global_pool",
    "features_only",
}


class Backbone(nn.Module):
    """A tower whose output is tokens: token 0 stands for the whole picture.

    Args:
        tower: timm's or open_clip's module.
        width: width of its tokens.
    """

    num_stages = 0
    """How many stages `stem` and `trunk` can part; 0 where the tower cannot be parted."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower: Any = tower
        self.width = width

    def stem(self, image_B3RR: Tensor, depth: int) -> Tensor:
        """Normalised picture (B, 3, R, R) to the map (B, C, h, w) after the first `depth` stages."""
        raise self._cannot_be_parted()

    def trunk(self, features_BCHW: Tensor, depth: int) -> Tensor:
        """The map after `depth` stages, through the rest of the tower, to tokens (B, N, D)."""
        raise self._cannot_be_parted()

    def _cannot_be_parted(self) -> ConfigError:
        return ConfigError(f"{type(self.tower).__name__} has no stages to part; use an EfficientNet of timm")


class TimmTokens(Backbone):
    """A timm transformer; where it has no class token, the mean of its tokens stands first."""

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, N, D)."""
        tokens_BND: Tensor = self.tower.forward_features(image_B3RR)
        return tokens_BND if self.tower.num_prefix_tokens else _with_mean(tokens_BND)


class TimmMap(Backbone):
    """A timm model whose last map is read as tokens."""

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, 1 + cells, D)."""
        return self._tokens(self.tower.forward_features(image_B3RR))

    def _tokens(self, features: Tensor) -> Tensor:
        if getattr(self.tower, "output_fmt", "NCHW") == "NHWC":
            return _with_mean(features.flatten(1, 2))
        return _with_mean(features.flatten(2).transpose(1, 2))


class EfficientNetMap(TimmMap):
    """timm's EfficientNet and its kin, parted between the entries of `blocks`."""

    def __init__(self, tower: EfficientNet, width: int) -> None:
        # Twice as fast on a CPU; checkpoints do not see it.
        super().__init__(tower.to(memory_format=torch.channels_last), width)
        self.num_stages = len(tower.blocks)

    def stem(self, image_B3RR: Tensor, depth: int) -> Tensor:
        """conv_stem, bn1 and `blocks[:depth]`: (B, 3, R, R) -> (B, C, h, w)."""
        self._check(depth)
        features: Tensor = self.tower.bn1(self.tower.conv_stem(image_B3RR))
        return self._run_blocks(features, 0, depth)

    def trunk(self, features_BCHW: Tensor, depth: int) -> Tensor:
        """`blocks[depth:]`, conv_head and bn2: (B, C, h, w) -> tokens (B, 1 + cells, D)."""
        self._check(depth)
        features = self._run_blocks(features_BCHW, depth, self.num_stages)
        return self._tokens(self.tower.bn2(self.tower.conv_head(features)))

    def _run_blocks(self, features: Tensor, start: int, stop: int) -> Tensor:
        for stage in range(start, stop):
            features = self.tower.blocks[stage](features)
        return features

    def _check(self, depth: int) -> None:
        if not 0 <= depth <= self.num_stages:
            raise ConfigError(f"depth is {depth}; this tower has {self.num_stages} stages")


class SdpaAttention(nn.Module):
    """A block's attention with the parameters of torch's own, which in inference holds (N, N) weights for every head.

    Args:
        attention: whose parameters it takes, under the same names.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, tokens_BND: Tensor, *_same: Tensor, **_options: object) -> tuple[Tensor, None]:
        """(B, N, D) -> (B, N, D), as open_clip's block calls it: keys and values of the same tokens, and no mask."""
        batch, length, _ = tokens_BND.shape
        projected = F.linear(tokens_BND, self.in_proj_weight, self.in_proj_bias)
        split_3BHNK = projected.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query_BHNK, key_BHNK, value_BHNK = split_3BHNK.unbind(0)
        mixed_BHNK = F.scaled_dot_product_attention(query_BHNK, key_BHNK, value_BHNK)
        mixed_BND: Tensor = self.out_proj(mixed_BHNK.transpose(1, 2).flatten(2))
        return mixed_BND, None


class OpenClipTokens(Backbone):
    """An open_clip CLIP ViT, its projection taken off."""

    def __init__(self, tower: VisionTransformer, width: int) -> None:
        # The pooled token and the rest come back apart; without `proj` both are ln_post's output.
        tower.output_tokens = True
        tower.proj = None
        for block in tower.transformer.resblocks:
            if isinstance(block.attn, nn.MultiheadAttention):  # the blocks of other kinds have no such path
                block.attn = SdpaAttention(block.attn)
        super().__init__(tower, width)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, 1 + patches, D)."""
        pooled_BD, patches_BND = self.tower(image_B3RR)
        return torch.cat([pooled_BD[:, None], patches_BND], dim=1)


def build_backbone(config: ImageEncoderConfig, image_size: int) -> Backbone:
    """Build the tower that the configuration names, with random weights.

    Args:
        config: names the tower; `backbone_options` changes its sizes.
        image_size: side R of the pictures it will see.

    Raises:
        ConfigError: the library, the name or an option is unknown, or the sizes disagree.
    """
    library, _, name = config.backbone.partition(":")
    build = _builder(library, name, config.backbone)
    forbidden = sorted(FORBIDDEN_OPTIONS & set(config.backbone_options))
    if forbidden:
        raise ConfigError(f"backbone_options may not hold {', '.join(forbidden)}; it is for sizes")
    backbone = build(name, config.backbone_options)
    if backbone.width != config.width:
        raise ConfigError(
            f"{config.backbone} is {backbone.width} wide, image_encoder.width is {config.width}"
        )
    built_for = _image_size(backbone.tower)
    if built_for not in (None, (image_size, image_size)):
        raise ConfigError(
            f"{config.backbone} is built for {built_for} pixels, preprocess.image_size is {image_size}; "
            "set the size in image_encoder.backbone_options (timm: img_size, open_clip: image_size)"
        )
    return backbone


def measure(backbone: str) -> tuple[int, int | None]:
    """Width of a tower's tokens, and the side of the pictures that it is made for (None = any size).

    Args:
        backbone: as in `ImageEncoderConfig`, with its own sizes.

    Raises:
        ConfigError: the library or the name is unknown.
    """
    library, _, name = backbone.partition(":")
    with torch.device("meta"):
        tower = _builder(library, name, backbone)(name, {})
    built_for = _image_size(tower.tower)
    return tower.width, None if built_for is None else built_for[0]


def _builder(
    library: str, name: str, backbone: str
) -> Callable[[str, Mapping[str, BackboneOption]], Backbone]:
    builders = {"timm": _build_timm, "open_clip": _build_open_clip}
    if library not in builders or not name:
        raise ConfigError(f"backbone is {backbone!r}; write timm:NAME or open_clip:NAME")
    return builders[library]


def _build_timm(name: str, options: Mapping[str, BackboneOption]) -> Backbone:
    # Names such as hf-hub:... would make timm fetch things; only its own models are meant.
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}; timm.list_models() lists them")
    sizes: dict[str, Any] = dict(options)
    try:
        # global_pool="" keeps the final norm on the tokens; pooling is not timm's to do here.
        tower: Any = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **sizes)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"timm cannot build {name!r} with {sizes}: {error}") from error
    width = int(tower.num_features)
    if isinstance(tower, EfficientNet):
        return EfficientNetMap(tower, width)
    is_transformer = hasattr(tower, "num_prefix_tokens") and hasattr(tower, "pos_embed")
    return TimmTokens(tower, width) if is_transformer else TimmMap(tower, width)


def _build_open_clip(name: str, options: Mapping[str, BackboneOption]) -> Backbone:
    config = open_clip.get_model_config(name)
    if config is None:
        raise ConfigError(f"open_clip has no model {name!r}; open_clip.list_models() lists them")
    vision: dict[str, Any] = {**config["vision_cfg"], **options}
    if "timm_model_name" in vision or not isinstance(vision["layers"], int):
        raise ConfigError(f"open_clip's {name} has no CLIP ViT as its tower; name the tower as timm:NAME")
    width, head_width = int(vision["width"]), int(vision.pop("head_width", 64))
    try:
        tower = VisionTransformer(
            heads=width // head_width,
            mlp_ratio=vision.pop("mlp_ratio", 4.0),
            output_dim=config["embed_dim"],
            act_layer=QuickGELU if config.get("quick_gelu", False) else nn.GELU,
            **vision,
        )
    except TypeError as error:
        raise ConfigError(
            f"open_clip cannot build the tower of {name} with {dict(options)}: {error}"
        ) from error
    return OpenClipTokens(tower, width)


def _image_size(tower: nn.Module) -> tuple[int, int] | None:
    patches = getattr(tower, "patch_embed", None)
    size = getattr(tower, "image_size", None) or getattr(patches, "img_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def _with_mean(tokens_BND: Tensor) -> Tensor:
    return torch.cat([tokens_BND.mean(dim=1, keepdim=True), tokens_BND], dim=1)
