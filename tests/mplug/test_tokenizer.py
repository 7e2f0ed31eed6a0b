from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from golden.mplug_cases import small_vocab
from mplug.errors import CheckpointError
from mplug.text.tokenizer import WordPieceTokenizer, pad

PIECES = ["a", "dog", "##s", "run", "##ning", "cafe", "狗", "跑", "步", ",", "?", "un", "##aff", "##able"]


def tokenizer(*, max_length: int = 25, lower_case: bool = True) -> WordPieceTokenizer:
    return WordPieceTokenizer([*small_vocab(104), *PIECES], max_length=max_length, lower_case=lower_case)


def pieces(text: str, **options: bool) -> list[str]:
    made = tokenizer(**options)
    return [made.vocab[number] for number in made.encode(text).ids]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   ", []),
        ("A DOG", ["a", "dog"]),
        ("dogs running", ["dog", "##s", "run", "##ning"]),
        ("Café", ["cafe"]),
        ("cafe\u0301", ["cafe"]),
        ("狗跑步", ["狗", "跑", "步"]),
        ("dog狗dog", ["dog", "狗", "dog"]),
        ("dog,a?", ["dog", ",", "a", "?"]),
        ("a\x00\ufffd\u200bnt", ["[UNK]"]),
        ("a\tdog\u00a0run\n", ["a", "dog", "run"]),
        ("unaffable", ["un", "##aff", "##able"]),
        ("zebra", ["[UNK]"]),
        ("a" * 101, ["[UNK]"]),
        ("[SEP]", ["[UNK]", "[UNK]", "[UNK]"]),
    ],
)
def test_pieces(text: str, expected: list[str]) -> None:
    assert pieces(text) == ["[CLS]", *expected, "[SEP]"]


def test_cased_vocabularies_keep_case_and_accents() -> None:
    assert pieces("Dog Café a", lower_case=False) == ["[CLS]", "[UNK]", "[UNK]", "a", "[SEP]"]


def test_truncation_is_reported_and_keeps_the_end_mark() -> None:
    made = tokenizer(max_length=5)
    exact, longer = made.encode("a dog run"), made.encode("a dog run a")
    assert (exact.ids.tolist(), exact.truncated) == ([101, 104, 105, 107, 102], False)
    assert (longer.ids.tolist(), longer.truncated) == ([101, 104, 105, 107, 102], True)


def test_five_thousand_words() -> None:
    tokens = tokenizer().encode("dog " * 5000)
    assert len(tokens.ids) == 25
    assert tokens.truncated


def test_batch_is_a_loop_of_single_texts() -> None:
    made = tokenizer()
    texts = ["a dog", "", "狗", "dogs running " * 20]
    for one, many in zip([made.encode(text) for text in texts], made.encode_batch(texts), strict=True):
        assert np.array_equal(one.ids, many.ids)
        assert one.truncated == many.truncated


def test_decode() -> None:
    made = tokenizer()
    for text in ("dogs running, a dog?", "狗跑步", "a 狗跑 dog"):
        assert made.decode(made.encode(text).ids.tolist()) == text


def test_pad() -> None:
    made = tokenizer()
    ids, mask = pad(made.encode_batch(["a dog", ""]), made.pad_id)
    assert ids.tolist() == [[101, 104, 105, 102], [101, 102, 0, 0]]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert pad([], 0)[0].shape == (0, 0)


def test_vocabulary_file_round_trip(tmp_path: Path) -> None:
    # U+2028 ends a line for str.splitlines, and is a piece in some vocabularies.
    made = WordPieceTokenizer([*small_vocab(104), "\u2028", "x"], max_length=9)
    made.save(tmp_path / "vocab.txt")
    assert WordPieceTokenizer.from_file(tmp_path / "vocab.txt", max_length=9).vocab == made.vocab
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(made.vocab).encode())
    assert WordPieceTokenizer.from_file(tmp_path / "vocab.txt", max_length=9).vocab == made.vocab


@pytest.mark.parametrize(
    ("vocab", "message"),
    [([*small_vocab(104), "a", "a"], "'a' twice"), (["a", "b"], r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]")],
)
def test_bad_vocabularies(vocab: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        WordPieceTokenizer(vocab, max_length=9)
