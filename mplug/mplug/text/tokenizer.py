"""WordPiece, by the `tokenizers` library, with the behaviour of BERT's own tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers

from mplug.errors import CheckpointError

_CHINESE = "\u3000-\u303f\u3400-\u9fff\uff01-\uff5e"
_BETWEEN_CHINESE = re.compile(f"(?<=[{_CHINESE}]) (?=[{_CHINESE}])")
"""The tokenizer sets ideographs apart; people, and Chinese punctuation, do not."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One tokenized text."""

    ids: NDArray[np.int64]
    """int64 (L,): [CLS], pieces, [SEP]; unpadded."""
    truncated: bool
    """Whether the text was longer than the tokenizer's `max_length`."""


class Tokenizer(Protocol):
    """What serving needs of a tokenizer."""

    @property
    def max_length(self) -> int:
        """Longest text in tokens, special tokens included."""
        ...

    @property
    def pad_id(self) -> int:
        """Token id that fills short rows of a batch."""
        ...

    def encode(self, text: str) -> Tokens:
        """Tokenize one text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize several texts."""
        ...


class DecodingTokenizer(Tokenizer, Protocol):
    """What a model that writes needs of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text, special tokens left out."""
        ...


class WordPieceTokenizer:
    """BERT's tokenizer: control characters dropped, Chinese characters apart, lower case, accents stripped.

    Args:
        vocab: pieces in id order, as the lines of `vocab.txt`.
        max_length: longest text in tokens, [CLS] and [SEP] included.
        lower_case: lower-case and strip accents (BERT's uncased vocabularies).

    Raises:
        CheckpointError: the vocabulary lacks a special token or holds a piece twice.
    """

    def __init__(self, vocab: Sequence[str], *, max_length: int, lower_case: bool = True) -> None:
        self.vocab = tuple(vocab)
        self.max_length = max_length
        self.lower_case = lower_case
        ids = {piece: number for number, piece in enumerate(self.vocab)}
        if len(ids) != len(self.vocab):
            twice = next(piece for number, piece in enumerate(self.vocab) if ids[piece] != number)
            raise CheckpointError(f"vocabulary holds {twice!r} twice; every piece needs one id")
        lacking = [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if piece not in ids]
        if lacking:
            raise CheckpointError(f"vocabulary lacks {', '.join(lacking)}; it must be a BERT vocab.txt")
        self.pad_id = ids["[PAD]"]
        self.cls_id = ids["[CLS]"]
        self.sep_id = ids["[SEP]"]
        self._pieces = _word_piece(ids, lower_case=lower_case)

    @classmethod
    def from_file(cls, path: Path, *, max_length: int, lower_case: bool = True) -> WordPieceTokenizer:
        """Read `vocab.txt`: one piece a line, the line number is the id.

        Raises:
            CheckpointError: no such file, or not a vocabulary.
        """
        if not path.is_file():
            raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds the tokenizer's pieces")
        # Only \n parts lines: some vocabularies hold U+2028 and its like as pieces.
        lines = path.read_text(encoding="utf-8").split("\n")
        pieces = [line.rstrip("\r") for line in lines]
        return cls(pieces[:-1] if pieces[-1] == "" else pieces, max_length=max_length, lower_case=lower_case)

    def save(self, path: Path) -> None:
        """Write `vocab.txt`."""
        path.write_text("".join(piece + "\n" for piece in self.vocab), encoding="utf-8", newline="\n")

    def pieces(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Pieces of several texts, however long, without special tokens, and from which characters each is."""
        return self._pieces.encode_batch(list(texts), add_special_tokens=False)

    def encode(self, text: str) -> Tokens:
        """Tokenize one text; too long ones keep their beginning, and say so."""
        return self._finish(self._pieces.encode(text, add_special_tokens=False))

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize several texts."""
        return [self._finish(encoding) for encoding in self.pieces(texts)]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text: pieces joined, special tokens left out, no spaces between Chinese characters."""
        return _BETWEEN_CHINESE.sub("", self.decode_words(ids))

    def decode_words(self, ids: Sequence[int]) -> str:
        """The same with every Chinese character a word, as the tokenizer sees it; words are apart by spaces."""
        special = {self.pad_id, self.cls_id, self.sep_id}
        return self._pieces.decode([number for number in ids if number not in special])

    def _finish(self, encoding: tokenizers.Encoding) -> Tokens:
        room = self.max_length - 2
        pieces = encoding.ids[:room]
        ids = np.array([self.cls_id, *pieces, self.sep_id], dtype=np.int64)
        return Tokens(ids, truncated=len(encoding.ids) > room)


def _word_piece(ids: dict[str, int], *, lower_case: bool) -> tokenizers.Tokenizer:
    model = models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100)  # BERT's limit
    word_piece = tokenizers.Tokenizer(model)
    word_piece.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lower_case, lowercase=lower_case
    )
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return word_piece


def pad(batch: Sequence[Tokens], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Stack texts of unequal length.

    Returns:
        ids int64 (B, L) filled with `pad_id`, and mask bool (B, L), True = a real token; L is the longest.
    """
    length = max((len(tokens.ids) for tokens in batch), default=0)
    ids = np.full((len(batch), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(batch), length), dtype=np.bool_)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens.ids)] = tokens.ids
        mask[row, : len(tokens.ids)] = True
    return ids, mask
