"""Texts and pairs of texts as BERT reads them: [CLS] first [SEP], and behind it second [SEP] of token type 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug.errors import MplugError
from mplug.text.tokenizer import Tokens, WordPieceTokenizer, pad

Text = str | tuple[str, str]
"""One text, or two that are read together."""


@dataclass(frozen=True, slots=True, eq=False)
class TypedTokens(Tokens):
    """A tokenized text or pair."""

    types: NDArray[np.int64]
    """int64 (L,): 0 up to the first [SEP], 1 behind it."""


def encode_pairs(tokenizer: WordPieceTokenizer, texts: Sequence[Text]) -> list[TypedTokens]:
    """Tokenize texts and pairs.

    What is longer than the tokenizer's `max_length` loses tokens at the end, a pair one by one from whichever text is
    longer, of equal ones from the second (BertTokenizer's `longest_first`).

    Raises:
        MplugError: something that is neither a text nor a pair of texts.
    """
    parts = [_parts(text, f"texts[{index}]") for index, text in enumerate(texts)]
    encodings = iter(tokenizer.pieces([text for part in parts for text in part]))
    return [_join(tokenizer, [next(encodings).ids for _ in part]) for part in parts]


def pad_pairs(
    batch: Sequence[TypedTokens], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Stack texts of unequal length.

    Returns:
        ids int64 (B, L) filled with `pad_id`, mask bool (B, L), True = a real token, and types int64 (B, L) filled
        with 0; L is the longest.
    """
    ids, mask = pad(batch, pad_id)
    types = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        types[row, : len(tokens.types)] = tokens.types
    return ids, mask, types


def _parts(text: Text, where: str) -> tuple[str, ...]:
    parts = (text,) if isinstance(text, str) else text
    fits = isinstance(parts, tuple) and len(parts) in (1, 2)
    if not fits or not all(isinstance(part, str) for part in parts):
        raise MplugError(f"{where} is {text!r}; give a text or a pair of texts")
    return parts


def _join(tokenizer: WordPieceTokenizer, pieces: Sequence[Sequence[int]]) -> TypedTokens:
    lengths = [len(part) for part in pieces]
    room = tokenizer.max_length - 1 - len(pieces)
    kept = _shorten(lengths, room)
    ids, types = [tokenizer.cls_id], [0]
    for number, (part, length) in enumerate(zip(pieces, kept, strict=True)):
        ids += [*part[:length], tokenizer.sep_id]
        types += [number] * (length + 1)
    return TypedTokens(np.array(ids, np.int64), kept != lengths, np.array(types, np.int64))


def _shorten(lengths: list[int], room: int) -> list[int]:
    surplus = max(0, sum(lengths) - room)
    if len(lengths) == 1:
        return [lengths[0] - surplus]
    first, second = lengths
    # First the longer one down to the other's length, then both in turn, the second first.
    down = min(surplus, abs(first - second))
    rest = surplus - down
    first, second = (first - down, second) if first > second else (first, second - down)
    return [first - rest // 2, second - (rest + 1) // 2]
