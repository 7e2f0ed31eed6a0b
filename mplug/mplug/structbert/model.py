"""What every StructBERT model is, whatever its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport
from mplug.errors import ConfigError
from mplug.structbert.config import StructBertConfig
from mplug.text.pairs import TypedTokens, pad_pairs
from mplug.text.tokenizer import Tokens, WordPieceTokenizer, pad

BATCH_ROWS = 32
"""Texts that go through the model at once; those of like length go together, so that little of it is padding."""

T = TypeVar("T", bound=Tokens)
R = TypeVar("R")


class StructBertModel(nn.Module):
    """A model with its configuration and its tokenizer; the modules are the subclass's.

    Their methods are differentiable where they give tensors; those that give dataclasses are not.

    Args:
        config: the model's shape.
        tokenizer: its vocabulary may be smaller than the embedding table, never larger.

    Raises:
        ConfigError: the vocabulary does not fit the configuration.
    """

    report: LoadReport
    """What the checkpoint held and what of it was used; empty for a model that was not loaded."""

    def __init__(self, config: StructBertConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__()
        if len(tokenizer.vocab) > config.encoder.vocab_size:
            raise ConfigError(
                f"the vocabulary has {len(tokenizer.vocab)} pieces, vocab_size is {config.encoder.vocab_size}; "
                "use the vocab.txt that the weights were trained with"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.report = LoadReport()

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the outputs; empty where the model has no classifying head."""
        return self.config.labels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory."""
        return sum(parameter.numel() for parameter in self.parameters())

    def batch(self, tokens: Sequence[TypedTokens]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids int64, mask bool, types int64, (B, L) each, where the weights are."""
        ids, mask, types = pad_pairs(tokens, self.tokenizer.pad_id)
        return self._put(ids), self._put(mask), self._put(types)

    def plain_batch(self, tokens: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """Ids int64 and mask bool, (B, L) each, where the weights are; every token is of type 0."""
        ids, mask = pad(tokens, self.tokenizer.pad_id)
        return self._put(ids), self._put(mask)

    def _put(self, array: object) -> Tensor:
        return torch.as_tensor(array).to(self.device)


def need_labels(config: StructBertConfig) -> int:
    """How many labels there are.

    Raises:
        ConfigError: fewer than two.
    """
    if len(config.labels) < 2:
        raise ConfigError(
            f"the model has {len(config.labels)} labels, and a classifier needs two; name them in "
            "label_mapping.json, or as id2label in configuration.json"
        )
    return len(config.labels)


def in_batches(tokens: Sequence[T], run: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Run texts of like length together.

    Args:
        tokens: what to run.
        run: gives one result for each of some of them, in their order.

    Returns:
        The results in the order of `tokens`.
    """
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index].ids))
    found: dict[int, R] = {}
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        found.update(zip(rows, run([tokens[row] for row in rows]), strict=True))
    return [found[index] for index in range(len(tokens))]
