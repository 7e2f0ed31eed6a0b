"""PLUG's encoder as a classifier of texts and pairs; its decoder is nowhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mplug.checkpoints.labels import need_two
from mplug.checkpoints.report import LoadReport
from mplug.plug.config import PlugConfig
from mplug.plug.encoder import PlugEncoder
from mplug.plug.generator import check_tokenizer
from mplug.text.batches import in_batches
from mplug.text.pairs import Text, TypedTokens, encode_pairs, pad_pairs
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_classifier import Classified


class PlugClassifier(nn.Module):
    """A linear layer on the state of [CLS], without a pooler; a `mplug.text_classifier.TextClassifier`.

    So AliceMind fine-tunes PLUG (BertForSequenceClassification).

    Args:
        config: the model's shape, with two labels or more.
        tokenizer: the vocabulary that the weights were trained with.

    Raises:
        ConfigError: fewer than two labels, or the vocabulary does not fit.
    """

    report: LoadReport
    """What the checkpoint held and what of it was used; empty for a model that was not loaded."""

    def __init__(self, config: PlugConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__()
        check_tokenizer(tokenizer, config)
        self.config = config
        self.tokenizer = tokenizer
        self.report = LoadReport()
        self.encoder = PlugEncoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden, need_two(config.labels))

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the outputs."""
        return self.config.labels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, ids_BN: Tensor, mask_BN: Tensor, types_BN: Tensor | None = None) -> Tensor:
        """Encode a padded batch and judge it, arguments and errors as `PlugEncoder`'s.

        Returns:
            logits (B, labels).
        """
        states_BND = self.encoder(ids_BN, mask_BN, types_BN)
        logits: Tensor = self.classifier(self.dropout(states_BND[:, 0]))
        return logits

    def classify(self, texts: Sequence[Text]) -> list[Classified]:
        """Score every label for each text or pair; neither order nor neighbours matter.

        Raises:
            MplugError: something that is neither a text nor a pair of texts.
        """
        tokens = encode_pairs(self.tokenizer, texts)
        scores = in_batches(tokens, self._scores)
        return [
            Classified.of(self.labels, row.tolist(), each.truncated)
            for row, each in zip(scores, tokens, strict=True)
        ]

    @torch.no_grad()
    def _scores(self, tokens: Sequence[TypedTokens]) -> list[Tensor]:
        batch = [torch.as_tensor(array).to(self.device) for array in pad_pairs(tokens, self.tokenizer.pad_id)]
        return list(self(*batch).float().softmax(dim=-1).cpu())
