"""Text in and out, as the reference's preprocessor and pipeline have it, for either encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mplug.errors import ConfigError
from mplug.palm.config import EncoderKind, PalmConfig
from mplug.text.byte_bpe import BOS, EOS, MASK, PAD, ByteBpeTokenizer
from mplug.text.chinese import join_chinese
from mplug.text.sources import encode_source
from mplug.text.tokenizer import Tokens, WordPieceTokenizer

VOCAB_FILE = "vocab.txt"

PalmTokenizer = WordPieceTokenizer | ByteBpeTokenizer

SENTENCE_MARK = "<q>"
"""What some English models part sentences with; others take <mask> for it."""


class Texts(Protocol):
    """Text to a source, and ids to text."""

    def encode(self, text: str) -> Tokens:
        """Tokenize a source."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text."""
        ...


HIDDEN = ("[UNK]", "[MASK]", "[unused0]", "[unused1]", "[unused2]")
"""Beside [CLS], [SEP] and [PAD]. The last three part texts in some models; the pipelines of ModelScope that came with
PALM took them away, later ones show them."""


class WordPieceTexts:
    """BERT's: no special token is shown, and no space between Chinese characters."""

    def __init__(self, tokenizer: WordPieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._hidden = {number for number, piece in enumerate(tokenizer.vocab) if piece in HIDDEN}

    def encode(self, text: str) -> Tokens:
        """See `Texts`."""
        return encode_source(self._tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Texts`."""
        shown = [id for id in ids if id not in self._hidden and id < len(self._tokenizer.vocab)]
        return join_chinese(self._tokenizer.decode_words(shown))


class ByteBpeTexts:
    """RoBERTa's: what stands between two sentences becomes a full stop, as the reference's postprocessor has it."""

    def __init__(self, tokenizer: ByteBpeTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> Tokens:
        """See `Texts`."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Texts`."""
        text = self._tokenizer.decode_all(ids)
        for mark in (SENTENCE_MARK, MASK):
            text = text.replace(mark, ". ")
        for token in (BOS, PAD, EOS):
            text = text.replace(token, "")
        return join_chinese(text)


def texts_of(tokenizer: PalmTokenizer, config: PalmConfig) -> Texts:
    """What goes with a tokenizer.

    Raises:
        ConfigError: it is the other encoder's, has more tokens than the model, or other special ones.
    """
    is_word_piece = isinstance(tokenizer, WordPieceTokenizer)
    if is_word_piece == (config.kind == "roberta"):
        raise ConfigError(f"a {type(tokenizer).__name__} does not go with the encoder {config.kind}")
    size = len(tokenizer.vocab) if isinstance(tokenizer, WordPieceTokenizer) else tokenizer.vocab_size
    if size > config.encoder.vocab_size:
        raise ConfigError(
            f"the vocabulary has {size} tokens, vocab_size is {config.encoder.vocab_size}; use the tokenizer that the "
            "weights were trained with"
        )
    decoder = config.decoder
    theirs = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    ours = (decoder.bos_id, decoder.eos_id, decoder.pad_id)
    if theirs != ours:
        raise ConfigError(
            f"the tokenizer begins, ends and pads texts with {theirs}, the model with {ours}; they must be the same"
        )
    return WordPieceTexts(tokenizer) if isinstance(tokenizer, WordPieceTokenizer) else ByteBpeTexts(tokenizer)


def read_tokenizer(folder: Path, kind: EncoderKind, max_length: int) -> PalmTokenizer:
    """Read `vocab.txt`, or `vocab.json` and `merges.txt`.

    Raises:
        CheckpointError: a file is missing, or no such tokenizer.
    """
    if kind == "roberta":
        return ByteBpeTokenizer.from_folder(folder, max_length=max_length)
    return WordPieceTokenizer.from_file(folder / VOCAB_FILE, max_length=max_length)


def save_tokenizer(tokenizer: PalmTokenizer, folder: Path) -> None:
    """Write the files that `read_tokenizer` reads."""
    tokenizer.save(folder / VOCAB_FILE if isinstance(tokenizer, WordPieceTokenizer) else folder)
