"""Texts and pairs to labels: sentiment, entailment, similarity; and labels never seen, by entailment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.checkpoints.labels import need_two
from mplug.errors import MplugError
from mplug.structbert.adversarial import adversarial_term
from mplug.structbert.backbone import PooledEncoder
from mplug.structbert.config import StructBertConfig
from mplug.structbert.model import StructBertModel
from mplug.text.batches import in_batches
from mplug.text.pairs import Text, TypedTokens, encode_pairs
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_classifier import Classified

ENTAILMENT_ID = 0
CONTRADICTION_ID = 2
"""Which outputs of ModelScope's entailment models are these; its zero-shot pipeline has them hard-wired."""


class Classifier(StructBertModel):
    """A linear layer on the pooled [CLS]: StructBERT's, and plug_mental's.

    Args:
        config: the model's shape, with two labels or more.
        tokenizer: the vocabulary that the weights were trained with.

    Raises:
        ConfigError: fewer than two labels, or the vocabulary does not fit.
    """

    def __init__(self, config: StructBertConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.encoder = PooledEncoder(config)
        self.dropout = nn.Dropout(config.encoder.dropout)
        self.classifier = nn.Linear(config.encoder.hidden, need_two(config.labels))

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, types_BL: Tensor | None = None) -> Tensor:
        """Encode a padded batch and judge it, arguments and errors as `TextEncoder`'s.

        Returns:
            logits (B, labels).
        """
        return self._judge(self.encoder(ids_BL, mask_BL, types_BL).pooled_BD)

    def loss(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        labels_B: Tensor,
        *,
        types_BL: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean cross entropy; in training mode with the adversarial term of the configuration.

        Args:
            ids_BL: int64 (B, L).
            mask_BL: bool (B, L), True = a real token.
            labels_B: int64 (B,), numbers of the labels.
            types_BL: int64 (B, L); None: every token is of type 0.
            generator: draws the adversarial noise; None = torch's own.
        """

        def logits_of(words_BLD: Tensor) -> Tensor:
            return self._judge(self.encoder.encode_words(words_BLD, mask_BL, types_BL).pooled_BD)

        words_BLD = self.encoder.text_encoder.embeddings.word(ids_BL)
        logits = logits_of(words_BLD)
        loss = F.cross_entropy(logits, labels_B)
        if not self.training:
            return loss
        term = adversarial_term(logits_of, words_BLD, logits, self.config.adversarial, generator=generator)
        return loss + term

    def classify(self, texts: Sequence[Text]) -> list[Classified]:
        """Score every label for each text or pair; neither order nor neighbours matter.

        The labels of each are in descending order of their scores, which sum to one. ModelScope's pipeline gives
        the same scores, the highest first, but with three labels and more it leaves the others as
        `numpy.argpartition` happens to put them.

        Raises:
            MplugError: something that is neither a text nor a pair of texts.
        """
        tokens = encode_pairs(self.tokenizer, texts)
        scores = self.logits(tokens).softmax(dim=-1)
        return [
            Classified.of(self.labels, row.tolist(), each.truncated)
            for row, each in zip(scores, tokens, strict=True)
        ]

    @torch.no_grad()
    def logits(self, tokens: Sequence[TypedTokens]) -> Tensor:
        """The outputs for some texts, float32 (texts, labels), on the CPU."""
        rows = in_batches(tokens, lambda some: list(self(*self.batch(some)).float().cpu()))
        return torch.stack(rows) if rows else torch.zeros(0, len(self.labels))

    def _judge(self, pooled_BD: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(pooled_BD))
        return logits


class EntailmentClassifier:
    """Labels never seen: the text is the premise, each label in its template a hypothesis.

    Args:
        nli: judges pairs; its first label is entailment, its third contradiction, as in ModelScope's models.

    Raises:
        MplugError: it has fewer than three labels.
    """

    def __init__(self, nli: Classifier) -> None:
        if len(nli.labels) <= max(ENTAILMENT_ID, CONTRADICTION_ID):
            raise MplugError(
                f"{nli.name} has {len(nli.labels)} labels; zero-shot classification needs an entailment model, "
                "whose labels are entailment, neutral and contradiction"
            )
        self.nli = nli

    @property
    def name(self) -> str:
        """The entailment model's."""
        return self.nli.name

    def classify(
        self, texts: Sequence[str], labels: Sequence[str], *, template: str = "{}", multi_label: bool = False
    ) -> list[Classified]:
        """Score given labels for each text, as ModelScope's pipeline: softmax over the labels' entailment.

        Args:
            texts: what to judge.
            labels: at least one.
            template: turns a label into a sentence, such as `这篇文章的标题是{}`.
            multi_label: several may hold: each label's score is its entailment's against its contradiction's. A
                single label is always scored so.

        Raises:
            MplugError: no labels, or a template without a place for them.
        """
        if not labels or "{}" not in template:
            raise MplugError(
                f"labels are {list(labels)}, template is {template!r}; give labels, and a template with {{}} in it"
            )
        pairs = [(text, template.replace("{}", label)) for text in texts for label in labels]
        tokens = encode_pairs(self.nli.tokenizer, pairs)
        logits = self.nli.logits(tokens).view(len(texts), len(labels), len(self.nli.labels))
        if multi_label or len(labels) == 1:
            scores = logits[..., [CONTRADICTION_ID, ENTAILMENT_ID]].softmax(dim=-1)[..., 1]
        else:
            scores = logits[..., ENTAILMENT_ID].softmax(dim=-1)
        of_text = (tokens[start : start + len(labels)] for start in range(0, len(tokens), len(labels)))
        return [
            Classified.of(labels, row.tolist(), any(each.truncated for each in pairs))
            for row, pairs in zip(scores, of_text, strict=True)
        ]
