"""The forms that image tokens are kept in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mplug_services.stored_tokens import StoredTokens, encode, from_bytes, size_in_bytes
from mplug_services.token_cache import TokenCache, TokenStorage
from services.token_samples import (
    FP16,
    INT8,
    KEEPING,
    LARGE,
    ROWS,
    WIDTH,
    Tokens,
    kept,
    key_of,
    tokens_of,
)

NUMBERS = arrays(np.float32, (3, 4), elements=st.floats(-60000, 60000, width=32))


@given(tokens=NUMBERS)
def test_fp16_is_the_nearest_half(tokens: Tokens) -> None:
    assert np.array_equal(kept(tokens, FP16), tokens.astype(np.float16))


@given(tokens=NUMBERS)
def test_int8_is_within_half_a_step_of_each_tokens_largest_number(tokens: Tokens) -> None:
    largest = np.abs(tokens).max(axis=1, keepdims=True)
    # Half a step of 1/127, and the half that it is read back as; below, what halves can say at all.
    allowed = largest * (0.5 / 127 + 2**-11) + 2**-24
    assert (np.abs(kept(tokens, INT8).astype(np.float32) - tokens) <= allowed * 1.0001).all()


@KEEPING
def test_bytes_and_back(storage: TokenStorage) -> None:
    stored = encode(tokens_of(1), storage)
    assert stored is not None
    data = stored.to_bytes()
    assert len(data) == stored.nbytes == size_in_bytes(storage, ROWS, WIDTH)
    assert np.array_equal(from_bytes(data, storage, ROWS, WIDTH).decode(), stored.decode())


def test_int8_takes_about_half_of_fp16() -> None:
    sizes = {}
    for storage in (FP16, INT8):
        stored = encode(tokens_of(1, rows=577, width=768), storage)
        assert stored is not None
        sizes[storage] = stored.nbytes
    assert sizes[FP16] == 577 * 768 * 2
    assert sizes[INT8] < 0.51 * sizes[FP16]


@KEEPING
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e6])
def test_what_the_form_cannot_say_is_not_kept(storage: TokenStorage, number: float) -> None:
    tokens = tokens_of(1)
    tokens[2, 3] = number
    cache = TokenCache(storage, memory_bytes=LARGE)
    assert cache.store(key_of(1), tokens) is tokens
    assert cache.get(key_of(1)) is None


def test_stored_tokens_of_zero_are_zero() -> None:
    stored = encode(np.zeros((2, 3), np.float32), INT8)
    assert isinstance(stored, StoredTokens)
    assert np.array_equal(stored.decode(), np.zeros((2, 3), np.float16))
