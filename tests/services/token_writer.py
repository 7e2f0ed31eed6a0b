"""Writes image tokens to segments until it is killed, and says what is kept. Run by test_token_crash.py.

It prints a line for each record that was kept: its number.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import numpy as np

from mplug_services.stored_tokens import StoredTokens, TokenStorage
from mplug_services.token_segments import TokenKey, TokenSegments

WIDTH = 256
SMALLEST, LARGEST = 50, 8000
"""Rows: records of 25 KB to 4 MB, which a kill can tear."""


def key_of(number: int) -> TokenKey:
    return TokenKey(f"{number:064x}", "f" * 64)


def tokens_of(number: int) -> StoredTokens:
    """The tokens that belong to a number, and to no other; quickly made, so that the kill meets the writing."""
    rows = SMALLEST + number * 577 % (LARGEST - SMALLEST)
    return StoredTokens(np.full((rows, WIDTH), number % 2048, dtype=np.float16))


def main() -> None:
    folder, first, max_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    segments = TokenSegments(folder, TokenStorage.FP16, max_bytes)
    for number in itertools.count(first):
        assert segments.put(key_of(number), tokens_of(number))
        os.write(sys.stdout.fileno(), f"{number}\n".encode())


if __name__ == "__main__":
    main()
