from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.mplug_cases import small_vocab
from mplug.errors import MplugError
from mplug.text.pairs import encode_pairs, pad_pairs
from mplug.text.tokenizer import WordPieceTokenizer

PIECES = [chr(number) for number in range(ord("a"), ord("z") + 1)]
VOCAB = [*small_vocab(104), *PIECES]

letters = st.lists(st.sampled_from(PIECES), max_size=12)


def tokenizer(max_length: int = 25) -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCAB, max_length=max_length)


def pieces(ids: Any) -> str:
    return " ".join(VOCAB[number] for number in ids)


def test_a_pair_has_types() -> None:
    (pair,) = encode_pairs(tokenizer(), [("a b", "c")])
    assert pieces(pair.ids) == "[CLS] a b [SEP] c [SEP]"
    assert pair.types.tolist() == [0, 0, 0, 0, 1, 1]
    assert not pair.truncated


def test_a_text_is_what_encode_gives() -> None:
    made = tokenizer(max_length=6)
    for text in ("a b", "", "a b c d e f"):
        (typed,), plain = encode_pairs(made, [text]), made.encode(text)
        assert typed.ids.tolist() == plain.ids.tolist()
        assert typed.truncated == plain.truncated
        assert not typed.types.any()


def removed_one_by_one(first: list[str], second: list[str], room: int) -> tuple[list[str], list[str]]:
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


@given(letters, letters, st.integers(4, 30))
def test_the_longer_text_is_cut_first(first: list[str], second: list[str], max_length: int) -> None:
    (pair,) = encode_pairs(tokenizer(max_length), [(" ".join(first), " ".join(second))])
    kept_first, kept_second = removed_one_by_one(first, second, max_length - 3)
    assert pieces(pair.ids).split() == ["[CLS]", *kept_first, "[SEP]", *kept_second, "[SEP]"]
    assert pair.truncated == (len(first) + len(second) > max_length - 3)
    assert pair.types.tolist() == [0] * (len(kept_first) + 2) + [1] * (len(kept_second) + 1)


def test_padding() -> None:
    ids, mask, types = pad_pairs(encode_pairs(tokenizer(), [("a", "b c"), "a"]), 0)
    assert ids.shape == mask.shape == types.shape == (2, 6)
    assert mask.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    assert types.tolist() == [[0, 0, 0, 1, 1, 1], [0] * 6]
    assert np.array_equal(ids[1, 3:], [0, 0, 0])


@pytest.mark.parametrize("wrong", [("a", "b", "c"), 5, ("a", 5), ()])
def test_what_is_no_text_is_named(wrong: Any) -> None:
    with pytest.raises(MplugError, match=r"texts\[1\]"):
        encode_pairs(tokenizer(), ["a", wrong])
