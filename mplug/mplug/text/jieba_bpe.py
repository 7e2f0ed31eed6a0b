"""The tokenizer of the large Chinese GPT-3s: words by jieba, then byte-level BPE by the `tokenizers` library."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mplug.errors import CheckpointError, MplugError
from mplug.text.tokenizer import Tokens

PAD_ID = 0
"""What the reference's preprocessor fills short rows of training with."""


class JiebaBpeTokenizer:
    """ModelScope's `JiebaBPETokenizer`.

    Args:
        source: what `tokenizer.json` holds.
        max_length: longest text in tokens.

    Raises:
        CheckpointError: it is no tokenizer, or lacks one of the tokens that are looked for by name.
        MplugError: jieba is not installed.
    """

    def __init__(self, source: str, *, max_length: int) -> None:
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(source)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"not a tokenizer of the tokenizers library: {error}") from error
        self._source = source
        self._segment = segmenter()
        self.max_length = max_length
        self.pad_id = PAD_ID
        self.sep_id = self._id("<sep>")
        self.eod_id = self._id("<|endoftext|>")

    @classmethod
    def from_file(cls, path: Path, *, max_length: int) -> JiebaBpeTokenizer:
        """Read `tokenizer.json`.

        Raises:
            CheckpointError: no such file, or not such a tokenizer.
        """
        if not path.is_file():
            raise CheckpointError(f"{path.name} is missing in {path.parent}; it holds the tokenizer")
        try:
            return cls(path.read_text(encoding="utf-8"), max_length=max_length)
        except (CheckpointError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` as it was read."""
        path.write_text(self._source, encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> Tokens:
        """Tokenize one text, without special tokens; too long ones keep their beginning, and say so."""
        words = list(self._segment.cut(text))
        return self._finish(self._tokenizer.encode(words, is_pretokenized=True).ids)

    def encode_code(self, text: str) -> Tokens:
        """Tokenize a program: jieba would part its names."""
        return self._finish(self._tokenizer.encode(text).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text, up to the first <sep>; special tokens left out."""
        before = list(ids)
        if self.sep_id in before:
            before = before[: before.index(self.sep_id)]
        return self.decode_all(before)

    def decode_all(self, ids: Sequence[int]) -> str:
        """Ids back to text, whatever stands between; special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(f"the tokenizer lacks {token}; it must be that of a Chinese GPT-3")
        return int(number)

    def _finish(self, ids: Sequence[int]) -> Tokens:
        kept = np.array(ids[: self.max_length], dtype=np.int64)
        return Tokens(kept, truncated=len(ids) > self.max_length)


@functools.cache
def segmenter() -> Any:
    """Word segmentation by jieba with its own dictionary, read once for all tokenizers.

    That is read from the installed package, in about a second. jieba would keep what it read in the folder of temporary
    files and trust what lies there next time, whoever put it there.

    Raises:
        MplugError: jieba is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its source, when it is compiled
            import jieba
    except ImportError as error:
        raise MplugError(
            "this model's tokenizer needs jieba, which is not installed: install the extra [server], or jieba"
        ) from error
    jieba.setLogLevel(logging.INFO)
    words = jieba.Tokenizer()
    words.FREQ, words.total = words.gen_pfdict(words.get_dict_file())
    words.initialized = True
    return words
