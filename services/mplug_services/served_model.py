"""What the services know of the loaded model: everything but its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from mplug.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A loaded model as its callers see it; needs no torch."""

    name: str
    """The folder's name, or open_clip's."""
    fingerprint: str
    """sha256, in hex, of the tensors, tokenizer and preprocessing that make its vectors."""
    embed_dim: int
    """Width E of its vectors."""
    device: str
    """As `cpu` or `cuda:0`."""
    dtype: str
    """As `float32`."""
    num_parameters: int
    licence: str
    image_size: int
    """Side R of the square that pictures become, in pixels."""
    tokenizer: Tokenizer
