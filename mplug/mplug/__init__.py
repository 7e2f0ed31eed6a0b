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
    from mplug.prompts import few_shot, prompt
    from mplug.reranking import RerankModel
    from mplug.retrieval import RetrievalModel
    from mplug.text_classifier import (
        MaskFiller,
        Question,
        QuestionAnswerer,
        TextClassifier,
        TokenClassifier,
        ZeroShotClassifier,
    )
    from mplug.text_generator import TextGenerator
    from mplug.text_writing import write
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
    "MaskFiller": "mplug.text_classifier",
    "MplugConfig": "mplug.config",
    "MplugError": "mplug.errors",
    "PreprocessConfig": "mplug.preprocess",
    "Question": "mplug.text_classifier",
    "QuestionAnswerer": "mplug.text_classifier",
    "RerankModel": "mplug.reranking",
    "RetrievalModel": "mplug.retrieval",
    "TextClassifier": "mplug.text_classifier",
    "TextDecoderConfig": "mplug.config",
    "TextEncoderConfig": "mplug.config",
    "TextGenerator": "mplug.text_generator",
    "TokenClassifier": "mplug.text_classifier",
    "VqaModel": "mplug.vqa",
    "ZeroShotClassifier": "mplug.text_classifier",
    "decode_image": "mplug.images",
    "few_shot": "mplug.prompts",
    "freeze": "mplug.freezing",
    "load": "mplug.loading",
    "pipeline": "mplug.pipelines",
    "prompt": "mplug.prompts",
    "to_pixels": "mplug.preprocess",
    "write": "mplug.text_writing",
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
    "MaskFiller",
    "MplugConfig",
    "MplugError",
    "PreprocessConfig",
    "Question",
    "QuestionAnswerer",
    "RerankModel",
    "RetrievalModel",
    "TextClassifier",
    "TextDecoderConfig",
    "TextEncoderConfig",
    "TextGenerator",
    "TokenClassifier",
    "VqaModel",
    "ZeroShotClassifier",
    "__version__",
    "decode_image",
    "few_shot",
    "freeze",
    "load",
    "pipeline",
    "prompt",
    "to_pixels",
    "write",
]


def __getattr__(name: str) -> Any:
    """Fetch a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mplug' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
