"""A toy of the small text models' data folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DIGITS = "零一二三四五六七八九"
COUNT = 100
"""Rows of each kind."""


def in_words(number: int) -> str:
    return "".join(DIGITS[int(digit)] for digit in f"{number:03}")


def write_small_data(folder: Path) -> Path:
    """Write poems of lines of five, couplets and abstracts, all different; gives the folder."""
    words = [in_words(number) for number in range(COUNT)]

    # Any: JSON.
    def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")

    five = "{0}甲乙，丙{0}丁。\n{0}甲乙，丙{0}丁。"
    write(
        "text_poem.jsonl",
        [{"prompt": f"词牌：甲・乙{0} 作者：{word}", "text": five.format(word)} for word in words],
    )
    write("text_couplet.jsonl", [{"text": f"{word}上", "answer": f"{word}下"} for word in words])
    abstract = "研究了{0}的方法，提出了{0}的新方法，结果表明{0}的方法有效."
    write(
        "text_summ_zh.jsonl",
        [{"text": abstract.format(word), "summary": f"{word}的方法"} for word in words],
    )
    return folder
