"""Image tokens to keep, and caches to keep them in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mplug_services.stored_tokens import encode, size_in_bytes
from mplug_services.token_cache import TokenCache, TokenKey, TokenStorage
from mplug_services.token_segments import HEADER_BYTES

FP16, INT8 = TokenStorage.FP16, TokenStorage.INT8
KEEPING = pytest.mark.parametrize("storage", [FP16, INT8])
ROWS, WIDTH = 5, 8
LARGE = 2**24
Tokens = NDArray[np.float32]
Halves = NDArray[np.float16]


def key_of(number: int, tower: str = "t") -> TokenKey:
    return TokenKey(*(hashlib.sha256(each.encode()).hexdigest() for each in (f"picture {number}", tower)))


def tokens_of(number: int, *, rows: int = ROWS, width: int = WIDTH) -> Tokens:
    return np.random.default_rng(number).standard_normal((rows, width)).astype(np.float32)


def kept(tokens: Tokens, storage: TokenStorage) -> Halves:
    stored = encode(tokens, storage)
    assert stored is not None
    return stored.decode()


def record_bytes(storage: TokenStorage) -> int:
    return HEADER_BYTES + size_in_bytes(storage, ROWS, WIDTH)


def open_cache(folder: Path, storage: TokenStorage = FP16, *, memory: int = LARGE) -> TokenCache:
    return TokenCache(storage, memory_bytes=memory, folder=folder, disk_bytes=LARGE)


def segment_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tokens"))


def found(cache: TokenCache, number: int, tower: str = "t") -> Halves:
    tokens = cache.get(key_of(number, tower))
    assert tokens is not None, f"picture {number} is not kept"
    return tokens


def flip(file: Path, place: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ 0x10]))
