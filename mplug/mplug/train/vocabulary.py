"""The bilingual WordPiece vocabulary of mplug-mini, from two published vocabularies and the texts in use.

The first 104 ids stay as in BERT ([PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103), then come single
characters, the Chinese characters that the texts use (as whole pieces: BERT splits Chinese into
characters), and the English pieces the texts use most, filled up in the published order.

Command: ``python -m mplug.train.vocabulary --english VOCAB --chinese VOCAB --texts DIR --output vocab.txt``
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

NUM_RESERVED = 104
_CAPTION_WEIGHT = 20  # one caption counts as much as this many words of other text
_LATIN_END = 0x250
_TEXT_FIELDS = ("captions", "captions_zh", "question", "answers", "prompt", "text", "answer")


def build_vocabulary(
    english: Sequence[str],
    chinese: Sequence[str],
    texts: Iterable[tuple[str, int]],
    size: int,
    tokenizer: BertWordPieceTokenizer,
) -> list[str]:
    """Chooses `size` pieces.

    Args:
        english: Pieces of bert-base-uncased in their order.
        chinese: Pieces of bert-base-chinese.
        texts: (text, weight) pairs.
        size: How many pieces to keep, the 104 reserved ones included.
        tokenizer: Of the English vocabulary.
    """
    known_chinese = {p for p in chinese if len(p) == 1 and ord(p) >= 0x2000}
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for text, weight in texts:
        characters.update(c for c in text if c in known_chinese)
        latin = "".join(" " if is_chinese(c) else c for c in text)
        for piece in tokenizer.encode(latin, add_special_tokens=False).tokens:
            words[piece] += weight
    known_english = set(english)
    ordered = [
        *english[:NUM_RESERVED],
        *(p for p in english if len(p) == 1 and ord(p) < _LATIN_END),
        *(p for p in english if len(p) == 3 and p.startswith("##") and ord(p[2]) < _LATIN_END),
        *(c for c, _ in characters.most_common()),
        *(p for p, _ in words.most_common() if p in known_english),
        *(p for p in english[NUM_RESERVED:] if p.isascii() and not p.startswith("[unused")),
    ]
    return list(dict.fromkeys(ordered))[:size]


def is_chinese(character: str) -> bool:
    """Whether it is a CJK ideograph of the blocks that the Chinese vocabulary has."""
    return "\u3400" <= character <= "\u9fff"


def read_texts(folder: Path) -> Iterator[tuple[str, int]]:
    """The texts of all .jsonl files in a folder but those of the val split, with their weights."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record.get("split") == "val":
                continue
            weight = _CAPTION_WEIGHT if "captions" in record else 1
            for field in _TEXT_FIELDS:
                value = record.get(field) or []
                yield from ((text, weight) for text in ([value] if isinstance(value, str) else value))


def main() -> None:
    """Command line, see the module's docstring."""
    parser = argparse.ArgumentParser(description="Build the bilingual WordPiece vocabulary.")
    parser.add_argument("--english", type=Path, required=True, help="vocab.txt of bert-base-uncased")
    parser.add_argument("--chinese", type=Path, required=True, help="vocab.txt of bert-base-chinese")
    parser.add_argument("--texts", type=Path, required=True, help="folder of .jsonl files")
    parser.add_argument("--size", type=int, default=14_500)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    english = args.english.read_text(encoding="utf-8").splitlines()
    chinese = args.chinese.read_text(encoding="utf-8").splitlines()
    tokenizer = BertWordPieceTokenizer(str(args.english), lowercase=True)
    pieces = build_vocabulary(english, chinese, read_texts(args.texts), args.size, tokenizer)
    args.output.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    print(f"{len(pieces)} pieces, {sum(map(is_chinese, ''.join(pieces)))} Chinese characters: {args.output}")


if __name__ == "__main__":
    main()
