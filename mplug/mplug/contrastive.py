"""What retrieval serving needs of a model; mPLUG and open_clip models satisfy it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mplug.checkpoints.report import LoadReport
from mplug.preprocess import PreprocessConfig
from mplug.text.tokenizer import Tokenizer


@runtime_checkable
class ContrastiveModel(Protocol):
    """Pictures and texts to one joint space of width E, where the dot product is the cosine."""

    @property
    def name(self) -> str:
        """Folder name, or open_clip's name."""
        ...

    @property
    def preprocess(self) -> PreprocessConfig:
        """Size and normalisation of pixels."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids."""
        ...

    @property
    def embed_dim(self) -> int:
        """Width E of the joint space."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of the tensors, tokenizer and preprocessing that make its vectors."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the weights and their permitted use; empty where unknown."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        ...

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory."""
        ...

    @property
    def report(self) -> LoadReport:
        """What the checkpoint held and what of it was used."""
        ...

    def embed_images(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) -> float32 (B, E), L2-normalised."""
        ...

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 (B, L), bool (B, L) True = attend -> float32 (B, E), L2-normalised."""
        ...
