"""What may stand at [MASK]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.errors import ConfigError, MplugError
from mplug.structbert.config import StructBertConfig
from mplug.structbert.model import StructBertModel
from mplug.text.batches import in_batches
from mplug.text.tokenizer import Tokens, WordPieceTokenizer
from mplug.text_classifier import Candidate, Filled
from mplug.text_decoder import DecoderHead
from mplug.text_encoder import TextEncoder

MASK = "[MASK]"


@dataclass(frozen=True, slots=True)
class _Best:
    """The best pieces for each mask of a text."""

    ids: list[list[int]]
    scores: list[list[float]]


class WordFiller(StructBertModel):
    """BERT's masked language model: its head's output matrix is the word embeddings.

    Args:
        config: the model's shape.
        tokenizer: the vocabulary that the weights were trained with, with [MASK].

    Raises:
        ConfigError: the vocabulary has no [MASK], or does not fit.
    """

    def __init__(self, config: StructBertConfig, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(config, tokenizer)
        if MASK not in tokenizer.vocab:
            raise ConfigError(
                f"the vocabulary has no {MASK}, so there is nothing to fill; take BERT's own vocab.txt"
            )
        self.mask_id = tokenizer.vocab.index(MASK)
        self.text_encoder = TextEncoder(config.encoder)
        self.head = DecoderHead(config.encoder)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, types_BL: Tensor | None = None) -> Tensor:
        """Encode a padded batch and guess every token, arguments and errors as `TextEncoder`'s.

        Returns:
            logits (B, L, V).
        """
        return self._guess(self.text_encoder(ids_BL, mask_BL, types_BL))

    def loss(
        self, ids_BL: Tensor, mask_BL: Tensor, labels_BL: Tensor, *, types_BL: Tensor | None = None
    ) -> Tensor:
        """Mean cross entropy of the tokens that have a label.

        Args:
            ids_BL: int64 (B, L), some of them masked.
            mask_BL: bool (B, L), True = a real token.
            labels_BL: int64 (B, L), what the masked ones were; -100 = not asked.
            types_BL: int64 (B, L); None: every token is of type 0.
        """
        asked_BL = labels_BL != -100
        states_BLD = self.text_encoder(ids_BL, mask_BL, types_BL)
        return F.cross_entropy(self._guess(states_BLD[asked_BL]), labels_BL[asked_BL])

    def fill(self, texts: Sequence[str], *, top_k: int = 5) -> list[Filled]:
        """Fill every [MASK] of each text, each as if the others stayed masked; neighbours do not matter.

        Raises:
            MplugError: a text without [MASK] among what the model reads of it, or `top_k` below 1.
        """
        if top_k < 1:
            raise MplugError(f"top_k is {top_k}; it must be at least 1")
        tokens = [self._read(text, f"texts[{index}]") for index, text in enumerate(texts)]
        top_k = min(top_k, len(self.tokenizer.vocab))
        best = in_batches(tokens, lambda some: self._candidates(some, top_k))
        return [self._filled(each, found) for each, found in zip(tokens, best, strict=True)]

    def _read(self, text: str, where: str) -> Tokens:
        ids: list[int] = []
        for number, part in enumerate(self.tokenizer.pieces(text.split(MASK))):
            ids += [self.mask_id] * (number > 0) + part.ids
        room = self.tokenizer.max_length - 2
        if self.mask_id not in ids[:room]:
            raise MplugError(
                f"{where} holds no {MASK} among its first {room} tokens; write it where a word is missing"
            )
        whole = [self.tokenizer.cls_id, *ids[:room], self.tokenizer.sep_id]
        return Tokens(np.array(whole, np.int64), truncated=len(ids) > room)

    @torch.no_grad()
    def _candidates(self, tokens: Sequence[Tokens], top_k: int) -> list[_Best]:
        ids_BL, mask_BL = self.plain_batch(tokens)
        masked_BL = ids_BL == self.mask_id
        logits_MV = self._guess(self.text_encoder(ids_BL, mask_BL)[masked_BL]).float()
        # Rows of the table behind the vocabulary, where it was padded, stand for no piece.
        scores_MV = logits_MV[:, : len(self.tokenizer.vocab)].softmax(dim=-1)
        scores, ids = (iter(found.tolist()) for found in scores_MV.topk(top_k))
        counts = masked_BL.sum(dim=1).tolist()
        return [_Best(list(islice(ids, count)), list(islice(scores, count))) for count in counts]

    def _filled(self, tokens: Tokens, best: _Best) -> Filled:
        ids = tokens.ids.copy()
        ids[ids == self.mask_id] = [row[0] for row in best.ids]
        vocab = self.tokenizer.vocab
        masks = tuple(
            tuple(Candidate(vocab[number], score) for number, score in zip(row, scores, strict=True))
            for row, scores in zip(best.ids, best.scores, strict=True)
        )
        return Filled(self.tokenizer.decode(ids.tolist()), masks, tokens.truncated)

    def _guess(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states, self.text_encoder.embeddings.word.weight)
        return logits
