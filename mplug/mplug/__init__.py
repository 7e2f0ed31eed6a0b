"""mPLUG and its kin: models, tokenizers, preprocessing and checkpoints.

Importing this package imports no torch; names are fetched when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mplug.captioning import Captioner, CaptionModel
    from mplug.config import (
        FusionEncoderConfig,
        ImageEncoderConfig,
        MplugConfig,
        TextDecoderConfig,
        TextEncoderConfig,
    )
    from mplug.contrastive import ContrastiveModel
    from mplug.errors import CheckpointError, ConfigError, ImageError, MplugError
    from mplug.freezing import freeze
    from mplug.generation import GenerationConfig
    from mplug.images import ImageLimits, decode_image
    from mplug.loading import load
    from mplug.pipelines import pipeline
    from mplug.preprocess import PreprocessConfig, to_pixels
    from mplug.reranking import RerankModel
    from mplug.retrieval import RetrievalModel
    from mplug.vqa import VqaModel

__version__ = "0.1.0"

_HOMES = {
    "CaptionModel": "mplug.captioning",
    "Captioner": "mplug.captioning",
    "CheckpointError": "mplug.errors",
    "ConfigError": "mplug.errors",
    "ContrastiveModel": "mplug.contrastive",
    "FusionEncoderConfig": "mplug.config",
    "GenerationConfig": "mplug.generation",
    "ImageEncoderConfig": "mplug.config",
    "ImageError": "mplug.errors",
    "ImageLimits": "mplug.images",
    "MplugConfig": "mplug.config",
    "MplugError": "mplug.errors",
    "PreprocessConfig": "mplug.preprocess",
    "RerankModel": "mplug.reranking",
    "RetrievalModel": "mplug.retrieval",
    "TextDecoderConfig": "mplug.config",
    "TextEncoderConfig": "mplug.config",
    "VqaModel": "mplug.vqa",
    "decode_image": "mplug.images",
    "freeze": "mplug.freezing",
    "load": "mplug.loading",
    "pipeline": "mplug.pipelines",
    "to_pixels": "mplug.preprocess",
}

__all__ = [
    "CaptionModel",
    "Captioner",
    "CheckpointError",
    "ConfigError",
    "ContrastiveModel",
    "FusionEncoderConfig",
    "GenerationConfig",
    "ImageEncoderConfig",
    "ImageError",
    "ImageLimits",
    "MplugConfig",
    "MplugError",
    "PreprocessConfig",
    "RerankModel",
    "RetrievalModel",
    "TextDecoderConfig",
    "TextEncoderConfig",
    "VqaModel",
    "__version__",
    "decode_image",
    "freeze",
    "load",
    "pipeline",
    "to_pixels",
]


def __getattr__(name: str) -> Any:
    """Fetch a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mplug' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
