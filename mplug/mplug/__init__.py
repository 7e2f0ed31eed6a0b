"""mPLUG and its kin: models, tokenizers, preprocessing and checkpoints.

Importing this package imports no torch; names are fetched when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mplug.config import ImageEncoderConfig, MplugConfig, TextEncoderConfig
    from mplug.contrastive import ContrastiveModel
    from mplug.errors import CheckpointError, ConfigError, ImageError, MplugError
    from mplug.images import ImageLimits, decode_image
    from mplug.loading import load
    from mplug.preprocess import PreprocessConfig, to_pixels
    from mplug.retrieval import RetrievalModel

__version__ = "0.1.0"

_HOMES = {
    "CheckpointError": "mplug.errors",
    "ConfigError": "mplug.errors",
    "ContrastiveModel": "mplug.contrastive",
    "ImageEncoderConfig": "mplug.config",
    "ImageError": "mplug.errors",
    "ImageLimits": "mplug.images",
    "MplugConfig": "mplug.config",
    "MplugError": "mplug.errors",
    "PreprocessConfig": "mplug.preprocess",
    "RetrievalModel": "mplug.retrieval",
    "TextEncoderConfig": "mplug.config",
    "decode_image": "mplug.images",
    "load": "mplug.loading",
    "to_pixels": "mplug.preprocess",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ContrastiveModel",
    "ImageEncoderConfig",
    "ImageError",
    "ImageLimits",
    "MplugConfig",
    "MplugError",
    "PreprocessConfig",
    "RetrievalModel",
    "TextEncoderConfig",
    "__version__",
    "decode_image",
    "load",
    "to_pixels",
]


def __getattr__(name: str) -> Any:
    """Fetch a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mplug' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
