"""RoBERTa's tokenizer: byte-level BPE, by the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mplug.errors import CheckpointError
from mplug.text.tokenizer import Tokens

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"


class ByteBpeTokenizer:
    """RoBERTa's tokenizer: bytes are merged to pieces, a space belongs to the word behind it, case stays.

    Args:
        vocab: JSON, pieces to ids.
        merges: two pieces a line, those merged first in front.
        max_length: longest text in tokens, <s> and </s> included.

    Raises:
        CheckpointError: the two do not fit each other, or a special token is lacking.
    """

    def __init__(self, vocab: str, merges: str, *, max_length: int) -> None:
        self._files = {VOCAB_FILE: vocab, MERGES_FILE: merges}
        self.max_length = max_length
        self._tokenizer = _byte_bpe(vocab, merges)
        self.vocab_size = self._tokenizer.get_vocab_size()
        ids: dict[str, int] = self._tokenizer.get_vocab()
        self.cls_id, self.pad_id, self.sep_id = ids[BOS], ids[PAD], ids[EOS]

    @classmethod
    def from_folder(cls, folder: Path, *, max_length: int) -> ByteBpeTokenizer:
        """Read `vocab.json` and `merges.txt`.

        Raises:
            CheckpointError: one is missing, or they are not such files.
        """
        texts = []
        for name in (VOCAB_FILE, MERGES_FILE):
            if not (folder / name).is_file():
                raise CheckpointError(f"{name} is missing in {folder}; it holds the tokenizer's pieces")
            texts.append((folder / name).read_text(encoding="utf-8"))
        try:
            return cls(*texts, max_length=max_length)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error

    def save(self, folder: Path) -> None:
        """Write both files as they were read."""
        for name, text in self._files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")

    def encode(self, text: str) -> Tokens:
        """Tokenize one text: <s>, pieces, </s>; too long ones keep their beginning, and say so."""
        return self._finish(self._tokenizer.encode(text))

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize several texts."""
        return [self._finish(encoding) for encoding in self._tokenizer.encode_batch(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def decode_all(self, ids: Sequence[int]) -> str:
        """Ids back to text, special tokens by their names."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _finish(self, encoding: tokenizers.Encoding) -> Tokens:
        room = self.max_length - 2
        ids = np.array([self.cls_id, *encoding.ids[:room], self.sep_id], dtype=np.int64)
        return Tokens(ids, truncated=len(encoding.ids) > room)


def _byte_bpe(vocab: str, merges: str) -> tokenizers.Tokenizer:
    try:
        pieces: dict[str, int] = json.loads(vocab)
        lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
        pairs = [(first, second) for first, second in (line.split(" ") for line in lines)]
        model = models.BPE(vocab=pieces, merges=pairs, unk_token=UNK)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{VOCAB_FILE} and {MERGES_FILE} are no byte-level BPE: {error}") from error
    byte_bpe = tokenizers.Tokenizer(model)
    byte_bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_bpe.decoder = decoders.ByteLevel()
    lacking = [token for token in (BOS, PAD, EOS, UNK) if token not in pieces]
    if lacking:
        raise CheckpointError(f"the vocabulary lacks {', '.join(lacking)}; it must be RoBERTa's {VOCAB_FILE}")
    byte_bpe.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in (BOS, PAD, EOS, UNK)]
    )
    if MASK in pieces:  # it takes the space before it
        byte_bpe.add_special_tokens([tokenizers.AddedToken(MASK, lstrip=True, normalized=False)])
    return byte_bpe
