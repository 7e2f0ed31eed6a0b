"""RoBERTa's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.palm_cases import small_byte_bpe
from mplug.errors import CheckpointError
from mplug.text.byte_bpe import ByteBpeTokenizer

TOKENIZER = small_byte_bpe(max_length=16)


def pieces(text: str) -> list[str]:
    vocab: dict[int, str] = {id: piece for piece, id in TOKENIZER._tokenizer.get_vocab().items()}
    return [vocab[int(id)] for id in TOKENIZER.encode(text).ids]


def test_a_space_belongs_to_the_word_behind_it_and_case_stays() -> None:
    assert pieces("the Cat") == ["<s>", "t", "he", "Ġ", "C", "at", "</s>"]
    assert pieces("at the cat") == ["<s>", "at", "Ġthe", "Ġc", "at", "</s>"]


def test_special_tokens_in_a_text_are_themselves_and_the_mask_takes_its_space() -> None:
    assert pieces("a</s>the") == ["<s>", "a", "</s>", "t", "he", "</s>"]
    assert pieces("a <mask>") == ["<s>", "a", "<mask>", "</s>"]


def test_bytes_that_the_vocabulary_lacks_are_unknown() -> None:
    assert pieces("a1") == ["<s>", "a", "<unk>", "</s>"]


@given(st.text(alphabet="abcdefgh tT.\n", max_size=12))
def test_decoding_gives_the_text_back(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert not tokens.truncated
    assert TOKENIZER.decode(tokens.ids.tolist()) == text
    assert TOKENIZER.decode_all(tokens.ids.tolist()) == f"<s>{text}</s>"


def test_long_texts_keep_their_beginning_and_say_so() -> None:
    (tokens,) = TOKENIZER.encode_batch(["a" * 15])
    assert (len(tokens.ids), tokens.truncated) == (16, True)
    assert tokens.ids[-1] == TOKENIZER.sep_id


def test_files_are_written_as_they_were_read(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    again = ByteBpeTokenizer.from_folder(tmp_path, max_length=16)
    assert again.encode("the cat").ids.tolist() == TOKENIZER.encode("the cat").ids.tolist()
    again.save(tmp_path)
    assert (tmp_path / "merges.txt").read_text().startswith("#version: 0.2\nh e\n")


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocab\.json is missing"):
        ByteBpeTokenizer.from_folder(tmp_path, max_length=16)
    (tmp_path / "vocab.json").write_text('{"<s>": 0, "a": 1}')
    with pytest.raises(CheckpointError, match=r"merges\.txt is missing"):
        ByteBpeTokenizer.from_folder(tmp_path, max_length=16)
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CheckpointError, match="lacks <pad>, </s>, <unk>"):
        ByteBpeTokenizer.from_folder(tmp_path, max_length=16)
    (tmp_path / "merges.txt").write_text("a b c\n")
    with pytest.raises(CheckpointError, match="no byte-level BPE"):
        ByteBpeTokenizer.from_folder(tmp_path, max_length=16)
