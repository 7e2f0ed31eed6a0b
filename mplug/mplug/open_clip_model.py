"""Any model of open_clip, by name, as another contrastive model.

Pictures are squashed to the model's square with its own mean and std: open_clip itself crops for most of its
models, and squashing is what this project does everywhere. Texts go through the model's own tokenizer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport
from mplug.errors import CheckpointError
from mplug.fingerprint import fingerprint
from mplug.image_encoder import normalise
from mplug.preprocess import PreprocessConfig
from mplug.task_model import LoadedModel
from mplug.text.tokenizer import Tokens

logger = logging.getLogger(__name__)


class OpenClipTokenizer:
    """One of open_clip's tokenizers behind our protocol.

    Args:
        tokenize: open_clip's, texts and a length to a padded tensor.
        max_length: the model's context length.
    """

    def __init__(self, tokenize: Any, max_length: int) -> None:
        self.max_length = max_length
        self.pad_id = int(tokenize([""], context_length=max_length)[0, -1])
        self._tokenize = tokenize

    def encode(self, text: str) -> Tokens:
        """Tokenize one text; too long ones keep their beginning, and say so."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize several texts."""
        if not texts:
            return []
        rows = self._tokenize(list(texts), context_length=self.max_length).numpy()
        # One place more shows whether anything was cut off: the place is then filled.
        longer = self._tokenize(list(texts), context_length=self.max_length + 1).numpy()
        return [
            Tokens(
                np.trim_zeros(row - self.pad_id, "b") + self.pad_id, truncated=bool(wide[-1] != self.pad_id)
            )
            for row, wide in zip(rows, longer, strict=True)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenClipConfig:
    """What there is to say of a model beside its modules."""

    name: str
    """open_clip's name, `:` and the pretrained tag where there is one."""
    licence: str = ""
    preprocess: PreprocessConfig


class OpenClipModel(LoadedModel):
    """An open_clip model as a `ContrastiveModel`.

    Args:
        name: open_clip's name, `:` and the pretrained tag where there is one.
        clip: the model.
        tokenizer: its tokenizer.
    """

    def __init__(self, name: str, clip: nn.Module, tokenizer: OpenClipTokenizer) -> None:
        preprocess = _preprocess(name, open_clip.get_model_preprocess_cfg(clip))
        super().__init__(OpenClipConfig(name=name, preprocess=preprocess))
        self.clip: Any = clip
        self.tokenizer = tokenizer
        self.report = LoadReport(loaded=tuple(sorted(clip.state_dict())))
        tensors = {
            key: tensor
            for key, tensor in clip.state_dict().items()
            if key not in ("logit_scale", "logit_bias")
        }
        text = {"tokenizer": f"open_clip:{name}", "max_length": tokenizer.max_length}
        self.fingerprint = fingerprint(tensors, self.preprocess, text, {"open_clip": name.partition(":")[0]})
        pixels = torch.zeros(1, 3, self.preprocess.image_size, self.preprocess.image_size, dtype=torch.uint8)
        with torch.inference_mode():
            self.embed_dim = int(self.embed_images(pixels).shape[1])

    def embed_images(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> float32 (B, E), L2-normalised."""
        image = normalise(pixels, self.preprocess.mean, self.preprocess.std).to(self.dtype)
        features: Tensor = self.clip.encode_image(image)
        return nn.functional.normalize(features.float(), dim=-1)

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 (B, L), bool (B, L) True = attend -> float32 (B, E), L2-normalised."""
        # These text towers want every row as long as the context and find the padding by its id.
        padded = ids.new_full((len(ids), self.tokenizer.max_length), self.tokenizer.pad_id)
        padded[:, : ids.shape[1]] = ids.masked_fill(~mask.bool(), self.tokenizer.pad_id)
        features: Tensor = self.clip.encode_text(padded)
        return nn.functional.normalize(features.float(), dim=-1)


@dataclass(frozen=True, slots=True)
class Created:
    """What open_clip makes of a name; Any: it has no types."""

    name: str
    """The model's, `:` and the pretrained tag where there is one."""
    clip: Any
    tokenize: Any
    """Its tokenizer."""
    context_length: int
    """Longest text in tokens."""
    is_random: bool
    """Whether it came without weights."""

    @property
    def preprocess(self) -> PreprocessConfig:
        """Size and normalisation of pixels."""
        return _preprocess(self.name, open_clip.get_model_preprocess_cfg(self.clip))


def load(source: str, *, device: torch.device, dtype: torch.dtype) -> OpenClipModel:
    """Build `open_clip:NAME` or `open_clip:NAME:PRETRAINED`; errors as in `create`."""
    made = create(source)
    tokenizer = OpenClipTokenizer(made.tokenize, made.context_length)
    return OpenClipModel(made.name, made.clip, tokenizer).to(device=device, dtype=dtype)


def create(source: str) -> Created:
    """Let open_clip build a model in evaluation mode.

    Without a pretrained tag the weights are random, and a warning is logged: good for trying a pipeline only.

    Args:
        source: `open_clip:NAME` or `open_clip:NAME:PRETRAINED`, a tag or a file of weights.

    Raises:
        CheckpointError: no such model, or its weights or tokenizer cannot be had here.
    """
    name, _, pretrained = source.removeprefix("open_clip:").partition(":")
    config = open_clip.get_model_config(name)
    if config is None:
        raise CheckpointError(f"open_clip has no model {name!r}; open_clip.list_models() lists them")
    if not pretrained:
        logger.warning(
            "open_clip:%s has random weights: name them, as in open_clip:%s:PRETRAINED", name, name
        )
    try:
        clip = open_clip.create_model(name, pretrained=pretrained or None)
        tokenize = open_clip.get_tokenizer(name)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"open_clip cannot load {source.removeprefix('open_clip:')!r} here: {error}"
        ) from error
    context_length = int(config["text_cfg"].get("context_length", tokenize.context_length))
    label = f"{name}:{pretrained}" if pretrained else name
    return Created(label, clip.eval(), tokenize, context_length, is_random=not pretrained)


def _preprocess(name: str, settings: dict[str, Any]) -> PreprocessConfig:
    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise CheckpointError(
            f"open_clip:{name} takes pictures of {height} x {width}; only squares are served"
        )
    return PreprocessConfig(image_size=height, mean=tuple(settings["mean"]), std=tuple(settings["std"]))
