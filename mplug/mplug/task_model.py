"""What every loaded model is, and every mPLUG model, whatever its task and whichever modules it holds."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import nn

from mplug.checkpoints.report import LoadReport
from mplug.config import MplugConfig
from mplug.errors import ConfigError
from mplug.preprocess import PreprocessConfig
from mplug.text.tokenizer import WordPieceTokenizer

P = TypeVar("P")


class Described(Protocol):
    """What a configuration says to those who only use the model."""

    @property
    def name(self) -> str:
        """Name shown to users."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the weights and their permitted use; empty where unknown."""
        ...

    @property
    def preprocess(self) -> PreprocessConfig:
        """Size and normalisation of pixels."""
        ...


class LoadedModel(nn.Module):
    """A model as its users see it."""

    config: Described
    report: LoadReport
    """What the checkpoint held and what of it was used; empty for a model that was not loaded."""

    def __init__(self, config: Described) -> None:
        super().__init__()
        self.config = config
        self.report = LoadReport()

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def licence(self) -> str:
        """The configuration's licence."""
        return self.config.licence

    @property
    def preprocess(self) -> PreprocessConfig:
        """Size and normalisation of pixels."""
        return self.config.preprocess

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return next(self.parameters()).dtype

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory."""
        return sum(parameter.numel() for parameter in self.parameters())


class TaskModel(LoadedModel):
    """A model with its configuration and its tokenizer; the modules are the subclass's.

    The methods are differentiable; who only serves wraps calls in `torch.inference_mode()`.

    Args:
        config: the shape of the whole checkpoint; parts that the task does not need are not built.
        tokenizer: its vocabulary may be smaller than the embedding table, never larger.

    Raises:
        ConfigError: the vocabulary does not fit the configuration.
    """

    config: MplugConfig

    def __init__(self, config: MplugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config)
        if len(tokenizer.vocab) > config.text_encoder.vocab_size:
            raise ConfigError(
                f"the vocabulary has {len(tokenizer.vocab)} pieces, text_encoder.vocab_size is "
                f"{config.text_encoder.vocab_size}; use the vocab.txt that the weights were trained with"
            )
        self.tokenizer = tokenizer


def require(part: P | None, name: str, *, task: str) -> P:
    """Return the configuration of a part that a task cannot do without.

    Raises:
        ConfigError: the model has no such part.
    """
    if part is None:
        raise ConfigError(
            f"the configuration has no {name}, which the task {task!r} needs; give a checkpoint that holds one"
        )
    return part
