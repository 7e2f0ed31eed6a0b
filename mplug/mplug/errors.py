"""The user's mistakes, as exceptions that name the value, the place and the remedy."""

from __future__ import annotations

from typing import Literal

ImageErrorReason = Literal[
    "EMPTY",
    "UNKNOWN_FORMAT",
    "TOO_MANY_BYTES",
    "TOO_MANY_PIXELS",
    "TRUNCATED",
    "CORRUPT",
]


class MplugError(ValueError):
    """Base of everything here that the caller can put right."""


class ConfigError(MplugError):
    """A configuration with an unknown key, a missing key or a value that cannot be."""


class CheckpointError(MplugError):
    """A checkpoint folder that cannot be loaded: what is wrong, where, and what to do."""


class ImageError(MplugError):
    """Bytes that are not an acceptable image.

    Attributes:
        reason: machine-readable cause, one of `ImageErrorReason`.
    """

    def __init__(self, reason: ImageErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason: ImageErrorReason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[ImageErrorReason, str]]:
        """Errors travel from decoding processes, so they pickle with both their arguments."""
        return type(self), (self.reason, str(self))
