"""Text in and out, as the reference's preprocessors and pipelines have it, for either layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mplug.errors import ConfigError, MplugError
from mplug.gpt3.config import Gpt3Config
from mplug.text.chinese import join_chinese
from mplug.text.jieba_bpe import JiebaBpeTokenizer
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_generator import Prompt

VOCAB_FILE = "vocab.txt"
TOKENIZER_FILE = "tokenizer.json"

Gpt3Tokenizer = WordPieceTokenizer | JiebaBpeTokenizer


class Texts(Protocol):
    """Text to a prompt, and ids to text."""

    def read(self, text: str) -> Prompt:
        """Tokenize what is to be continued."""
        ...

    def written(self, ids: Sequence[int]) -> list[int]:
        """Of generated ids, those that are shown."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text, special tokens left out."""
        ...


class WordPieceTexts:
    """Base and large: BERT's tokenizer, [CLS] in front.

    The reference cuts a text to 128 tokens, [CLS] and [SEP] included, and then has the first generated token take the
    place of [SEP]: so a prompt is [CLS] and the pieces.
    """

    def __init__(self, tokenizer: WordPieceTokenizer) -> None:
        self._tokenizer = tokenizer
        vocab = tokenizer.vocab
        self._hidden = {number for number, piece in enumerate(vocab) if piece in ("[UNK]", "[MASK]")}

    def read(self, text: str) -> Prompt:
        """See `Texts`."""
        tokens = self._tokenizer.encode(text)
        return Prompt(tuple(tokens.ids[:-1].tolist()), truncated=tokens.truncated)

    def written(self, ids: Sequence[int]) -> list[int]:
        """See `Texts`."""
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Texts`."""
        return join_chinese(self._tokenizer.decode_words([id for id in ids if id not in self._hidden]))


class JiebaTexts:
    """1.3B and larger: jieba and BPE, no token in front; what stands behind the first generated <sep> is not shown.

    The reference looks for <sep> in the prompt, too, and then shows no more than a part of that. What a person types
    has none: jieba takes "<sep>" apart.
    """

    def __init__(self, tokenizer: JiebaBpeTokenizer) -> None:
        self._tokenizer = tokenizer

    def read(self, text: str) -> Prompt:
        """See `Texts`."""
        tokens = self._tokenizer.encode(text)
        if not len(tokens.ids):
            raise MplugError("the text is empty, and this model continues texts; give a character at least")
        return Prompt(tuple(tokens.ids.tolist()), truncated=tokens.truncated)

    def written(self, ids: Sequence[int]) -> list[int]:
        """See `Texts`."""
        shown = list(ids)
        sep_id = self._tokenizer.sep_id
        return shown[: shown.index(sep_id)] if sep_id in shown else shown

    def decode(self, ids: Sequence[int]) -> str:
        """See `Texts`."""
        return self._tokenizer.decode_all(ids)


def texts_of(tokenizer: Gpt3Tokenizer, config: Gpt3Config) -> Texts:
    """What goes with a tokenizer.

    Raises:
        ConfigError: it is the other layout's, or has more tokens than the model.
    """
    is_plain = isinstance(tokenizer, WordPieceTokenizer)
    if is_plain != (config.layout == "plain"):
        raise ConfigError(f"a {type(tokenizer).__name__} does not go with the {config.layout} layout")
    size = len(tokenizer.vocab) if isinstance(tokenizer, WordPieceTokenizer) else tokenizer.vocab_size
    if size > config.vocab_size:
        raise ConfigError(
            f"the vocabulary has {size} tokens, vocab_size is {config.vocab_size}; use the tokenizer that the weights "
            "were trained with"
        )
    return WordPieceTexts(tokenizer) if isinstance(tokenizer, WordPieceTokenizer) else JiebaTexts(tokenizer)


def read_tokenizer(folder: Path, config: Gpt3Config) -> Gpt3Tokenizer:
    """Read `vocab.txt` (plain) or `tokenizer.json` (distributed).

    Raises:
        CheckpointError: the file is missing or no such tokenizer.
        MplugError: jieba is not installed.
    """
    if config.layout == "plain":
        longest = min(config.prompt_tokens, config.positions)
        return WordPieceTokenizer.from_file(folder / VOCAB_FILE, max_length=longest)
    # The reference cuts no text to be continued; what leaves no place for a token cannot be.
    return JiebaBpeTokenizer.from_file(folder / TOKENIZER_FILE, max_length=config.positions)
