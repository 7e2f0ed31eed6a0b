"""What every StructBERT model is, whatever its head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mplug.checkpoints.report import LoadReport
from mplug.errors import ConfigError
from mplug.structbert.config import StructBertConfig
from mplug.text.pairs import TypedTokens, pad_pairs
from mplug.text.tokenizer import Tokens, WordPieceTokenizer, pad


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
