"""Chinese text behind BERT's tokenizer, which sets every ideograph apart."""

from __future__ import annotations

import itertools
import string

PUNCTUATION = frozenset(
    "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､\u3000、〃〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏﹑﹔·！？｡。"
)
"""What ModelScope takes for Chinese punctuation (utils/chinese_utils.py)."""

_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
"""BERT's ranges of them, first and last."""


def is_ideograph(character: str) -> bool:
    """Whether BERT's tokenizer sets a character apart as Chinese."""
    return any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)


def join_chinese(text: str) -> str:
    """Take away the spaces between Chinese words, as ModelScope's pipelines do.

    A word of ideographs and punctuation, Chinese or not, is a Chinese one; so is nothing between two spaces.
    """
    words: list[str] = []
    for is_chinese, group in itertools.groupby(text.split(" "), key=_is_chinese):
        several = list(group)
        words += ["".join(several)] if is_chinese else several
    return " ".join(words).strip()


def _is_chinese(word: str) -> bool:
    return all(
        is_ideograph(character) or character in PUNCTUATION or character in string.punctuation
        for character in word
    )
