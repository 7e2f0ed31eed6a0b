"""Labelled spans of texts: names, words, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.checkpoints.labels import need_two
from mplug.structbert.adversarial import adversarial_term
from mplug.structbert.config import StructBertConfig
from mplug.structbert.model import StructBertModel
from mplug.text.batches import in_batches
from mplug.text.tokenizer import Tokens, WordPieceTokenizer
from mplug.text_classifier import Span, Tagged
from mplug.text_encoder import TextEncoder


@dataclass(frozen=True, slots=True, eq=False)
class WordTokens(Tokens):
    """A tokenized text, and where its words are: runs of letters, single ideographs, single marks."""

    first: tuple[int, ...]
    """For each word, the place of its first piece among `ids`."""
    places: tuple[tuple[int, int], ...]
    """For each word, its first character in the text and the one behind its last."""


@dataclass(frozen=True, slots=True)
class LabelledWord:
    """What the model says of a word."""

    label: str
    score: float
    """The label's probability."""
    start: int
    end: int


class Tagger(StructBertModel):
    """A linear layer on each token's states; the first piece of a word speaks for it.

    Args:
        config: the model's shape, with two labels or more, such as `B-PER`, `I-PER`, `E-PER`, `S-PER`, `O`.
        tokenizer: the vocabulary that the weights were trained with.

    Raises:
        ConfigError: fewer than two labels, or the vocabulary does not fit.
    """

    def __init__(self, config: StructBertConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.text_encoder = TextEncoder(config.encoder)
        self.dropout = nn.Dropout(config.encoder.dropout)
        self.classifier = nn.Linear(config.encoder.hidden, need_two(config.labels))

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, types_BL: Tensor | None = None) -> Tensor:
        """Encode a padded batch and judge every token, arguments and errors as `TextEncoder`'s.

        Returns:
            logits (B, L, labels).
        """
        return self._judge(self.text_encoder(ids_BL, mask_BL, types_BL))

    def loss(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        labels_BL: Tensor,
        *,
        types_BL: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean cross entropy of real tokens; in training mode with the adversarial term of the configuration.

        Args:
            ids_BL: int64 (B, L).
            mask_BL: bool (B, L), True = a real token.
            labels_BL: int64 (B, L), numbers of the labels; -100 = no label.
            types_BL: int64 (B, L); None: every token is of type 0.
            generator: draws the adversarial noise; None = torch's own.
        """

        def logits_of(words_BLD: Tensor) -> Tensor:
            embedded_BLD = self.text_encoder.embeddings.place(words_BLD, types_BL)
            return self._judge(self.text_encoder.encode(embedded_BLD, mask_BL))

        words_BLD = self.text_encoder.embeddings.word(ids_BL)
        logits = logits_of(words_BLD)
        real_BL = labels_BL.masked_fill(~mask_BL.bool(), -100)
        loss = F.cross_entropy(logits.flatten(0, 1), real_BL.flatten())
        if not self.training:
            return loss
        settings = self.config.adversarial
        term = adversarial_term(logits_of, words_BLD, logits, settings, mask=mask_BL, generator=generator)
        return loss + term

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """Find the spans of each text; neither order nor neighbours matter."""
        tokens = encode_words(self.tokenizer, texts)
        words = in_batches(tokens, self._label)
        return [
            Tagged(join_spans(text, labelled), each.truncated)
            for text, labelled, each in zip(texts, words, tokens, strict=True)
        ]

    @torch.no_grad()
    def _label(self, tokens: Sequence[WordTokens]) -> list[list[LabelledWord]]:
        scores_BLC, numbers_BLC = self(*self.plain_batch(tokens)).float().softmax(dim=-1).max(dim=-1)
        return [
            [
                LabelledWord(self.labels[number], score, *place)
                for number, score, place in zip(
                    numbers_L[list(each.first)].tolist(),
                    scores_L[list(each.first)].tolist(),
                    each.places,
                    strict=True,
                )
            ]
            for each, scores_L, numbers_L in zip(tokens, scores_BLC.cpu(), numbers_BLC.cpu(), strict=True)
        ]

    def _judge(self, states_BLD: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(states_BLD))
        return logits


def encode_words(tokenizer: WordPieceTokenizer, texts: Sequence[str]) -> list[WordTokens]:
    """Tokenize texts, and remember their words; too long ones keep their beginning, and say so."""
    return [_words(tokenizer, encoding) for encoding in tokenizer.pieces(texts)]


def join_spans(text: str, words: Sequence[LabelledWord]) -> tuple[Span, ...]:
    """Join words to spans by the labels' first letters: Begin, Inside, End, Single; any other is outside.

    As ModelScope's token-classification pipeline does, whatever the labels: I and E begin a span where none is open,
    and outside words do not close an open one, so that an I behind them still belongs to it. The score is what that
    pipeline means to give, the probability of the span's first label; its own is that of the word before.

    Args:
        text: where the words are from.
        words: in its order.
    """
    spans: list[Span] = []
    begun: LabelledWord | None = None
    end = 0
    for word in words:
        kind = word.label[:1]
        if begun is not None and kind in ("B", "S"):
            spans.append(_span(text, begun, end))
            begun = None
        if kind in ("B", "I", "E", "S"):
            begun, end = begun or word, word.end
        if begun is not None and kind in ("E", "S"):
            spans.append(_span(text, begun, end))
            begun = None
    return (*spans, _span(text, begun, end)) if begun is not None else tuple(spans)


def _span(text: str, first: LabelledWord, end: int) -> Span:
    return Span(first.label[2:], first.start, end, text[first.start : end], first.score)


def _words(tokenizer: WordPieceTokenizer, encoding: tokenizers.Encoding) -> WordTokens:
    room = tokenizer.max_length - 2
    words, offsets = encoding.word_ids[:room], encoding.offsets[:room]
    first = [place for place, word in enumerate(words) if place == 0 or word != words[place - 1]]
    last = [*(place - 1 for place in first[1:]), len(words) - 1]
    return WordTokens(
        np.array([tokenizer.cls_id, *encoding.ids[:room], tokenizer.sep_id], np.int64),
        len(encoding.ids) > room,
        first=tuple(1 + place for place in first),
        places=tuple((offsets[a][0], offsets[b][1]) for a, b in zip(first, last, strict=False)),
    )
