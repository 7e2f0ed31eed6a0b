"""Which of the known questions a new one asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mplug.errors import MplugError
from mplug.structbert.config import StructBertConfig
from mplug.structbert.faq_networks import KnownStates, MgimNet, ProtoNet, Prototypes
from mplug.structbert.model import StructBertModel
from mplug.text.batches import BATCH_ROWS
from mplug.text.tokenizer import Tokens, WordPieceTokenizer
from mplug.text_classifier import Classified, Question
from mplug.text_encoder import TextEncoder


@dataclass(frozen=True, slots=True, eq=False)
class KnownQuestions:
    """What a model keeps of a support set."""

    labels: tuple[str, ...]
    """In order, each once."""
    read: Prototypes | KnownStates


class FaqAnswerer(StructBertModel):
    """StructBERT and a network that compares questions.

    Args:
        config: the model's shape; `faq` says which network.
        tokenizer: the vocabulary that the weights were trained with.

    Raises:
        ConfigError: the vocabulary does not fit.
    """

    def __init__(self, config: StructBertConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.text_encoder = TextEncoder(config.encoder)
        network = ProtoNet if config.faq.network == "protonet" else MgimNet
        self.network: ProtoNet | MgimNet = network(config.faq, config.encoder.hidden)

    def remember_ids(self, ids_SM: Tensor, mask_SM: Tensor, labels_S: Tensor) -> Prototypes | KnownStates:
        """Read known questions; see `ProtoNet.remember` and `MgimNet.remember`."""
        rows = [slice(start, start + BATCH_ROWS) for start in range(0, len(ids_SM), BATCH_ROWS)]
        states_SMD = torch.cat([self.text_encoder(ids_SM[some], mask_SM[some]) for some in rows])
        return self.network.remember(states_SMD, mask_SM.bool(), labels_S)

    def forward(self, ids_QL: Tensor, mask_QL: Tensor, known: Prototypes | KnownStates) -> Tensor:
        """Logits (Q, C) of new questions, int64 (Q, L) with a bool mask."""
        logits_QC: Tensor = self.network(self.text_encoder(ids_QL, mask_QL), mask_QL.bool(), known)
        return logits_QC

    def loss(
        self, ids_QL: Tensor, mask_QL: Tensor, known: Prototypes | KnownStates, labels_Q: Tensor
    ) -> Tensor:
        """Mean binary cross entropy of every label of every new question, whose own label is int64 (Q,)."""
        logits_QC = self(ids_QL, mask_QL, known)
        wanted_QC = F.one_hot(labels_Q, logits_QC.shape[1]).to(logits_QC.dtype)
        return F.binary_cross_entropy_with_logits(logits_QC, wanted_QC)

    @torch.no_grad()
    def remember(self, support: Sequence[Question]) -> KnownQuestions:
        """Read known questions once, for many calls of `answer`.

        Raises:
            MplugError: there are none.
        """
        if not support:
            raise MplugError("there are no known questions; give at least one for each answer")
        balanced = self.config.faq.balanced or self.config.faq.network == "mgimnnet"
        known = sorted(_balance(support) if balanced else support, key=lambda question: question.label)
        labels = tuple(dict.fromkeys(question.label for question in known))
        numbers_S = torch.tensor([labels.index(question.label) for question in known], device=self.device)
        ids_SM, mask_SM = self.plain_batch(self._read([question.text for question in known]))
        return KnownQuestions(labels, self.remember_ids(ids_SM, mask_SM, numbers_S))

    @torch.no_grad()
    def answer(
        self, queries: Sequence[str], support: Sequence[Question] | KnownQuestions
    ) -> list[Classified]:
        """Score the labels of the known questions for each new one; the new ones do not matter to each other.

        Args:
            queries: new questions.
            support: known ones, one or several for each label, or what `remember` gave.

        Returns:
            For each query its labels, best first: cosines for ProtoNet with that metric, otherwise probabilities
            that are independent of each other.

        Raises:
            MplugError: no known questions.
        """
        known = support if isinstance(support, KnownQuestions) else self.remember(support)
        found = []
        tokens = self._read(queries)
        for start in range(0, len(tokens), self.network.QUERIES):
            rows = tokens[start : start + self.network.QUERIES]
            scores = self.network.scores(self(*self.plain_batch(rows), known.read)).float().cpu()
            found += [
                Classified.of(known.labels, row.tolist(), each.truncated)
                for row, each in zip(scores, rows, strict=True)
            ]
        return found

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of sentences, float32 (texts, D), as ModelScope's pipeline gives them."""
        vectors = [torch.zeros(0, self.config.encoder.hidden)]
        for each in self._read(texts):
            ids_1L, mask_1L = self.plain_batch([each])
            vectors.append(self.network.embed(self.text_encoder(ids_1L, mask_1L), mask_1L).float().cpu())
        return torch.cat(vectors).numpy()

    def _read(self, texts: Sequence[str]) -> list[Tokens]:
        return [self._cut(encoding.ids) for encoding in self.tokenizer.pieces(texts)]

    def _cut(self, pieces: Sequence[int]) -> Tokens:
        # The reference cuts behind max_length, whatever is there: long questions lose their [SEP].
        ids = np.array([self.tokenizer.cls_id, *pieces, self.tokenizer.sep_id], np.int64)
        return Tokens(ids[: self.tokenizer.max_length], truncated=len(ids) > self.tokenizer.max_length)


def _balance(support: Sequence[Question]) -> list[Question]:
    """The first question of a label once more, until all labels have the same number."""
    counts = Counter(question.label for question in support)
    firsts = {question.label: question for question in reversed(support)}
    most = max(counts.values())
    return [*support, *(firsts[label] for label, count in counts.items() for _ in range(most - count))]
