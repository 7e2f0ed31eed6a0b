"""Image tokens on the disk: budgets, and files that are damaged."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_services.stored_tokens import encode
from mplug_services.token_cache import TokenCache, TokenStorage
from mplug_services.token_segments import SEGMENTS, TokenSegments
from services.token_samples import (
    FP16,
    KEEPING,
    LARGE,
    flip,
    found,
    kept,
    key_of,
    open_cache,
    record_bytes,
    segment_files,
    tokens_of,
)


def test_the_oldest_segment_leaves_the_disk_first(tmp_path: Path) -> None:
    budget = SEGMENTS * 2 * record_bytes(FP16)
    segments = TokenSegments(tmp_path, FP16, budget)
    count = SEGMENTS * 4 + 1
    for number in range(count):
        stored = encode(tokens_of(number), FP16)
        assert stored is not None
        assert segments.put(key_of(number), stored)
        assert segments.nbytes <= budget
        assert segments.nbytes == sum(file.stat().st_size for file in segment_files(tmp_path))
    there = [number for number in range(count) if segments.get(key_of(number)) is not None]
    assert there == list(range(count - len(there), count))
    assert len(there) >= 2 * (SEGMENTS - 1)
    segments.close()
    smaller = TokenSegments(tmp_path, FP16, budget // 2)
    assert 0 < smaller.nbytes <= budget // 2
    assert key_of(count - 1) in smaller
    smaller.close()


def test_what_is_larger_than_the_budget_is_not_kept(tmp_path: Path) -> None:
    segments = TokenSegments(tmp_path, FP16, record_bytes(FP16) - 1)
    stored = encode(tokens_of(1), FP16)
    assert stored is not None
    assert not segments.put(key_of(1), stored)
    assert segments.nbytes == 0
    segments.close()


@KEEPING
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_segment_cut_anywhere_serves_its_whole_records_only(
    storage: TokenStorage, data: st.DataObject
) -> None:
    length = 3 * record_bytes(storage)
    cut = data.draw(st.integers(0, length - 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = open_cache(folder, storage)
        for number in range(3):
            cache.store(key_of(number), tokens_of(number))
        cache.close()
        (file,) = segment_files(folder)
        assert file.stat().st_size == length
        with file.open("r+b") as stream:
            stream.truncate(cut)
        cache = open_cache(folder, storage)
        whole = cut // record_bytes(storage)
        assert [cache.get(key_of(number)) is not None for number in range(3)] == [
            number < whole for number in range(3)
        ]
        assert cache.damaged == (cut % record_bytes(storage) > 0)
        # What is stored behind a torn segment is found after the next start.
        cache.store(key_of(9), tokens_of(9))
        cache.close()
        cache = open_cache(folder, storage)
        assert np.array_equal(found(cache, 9), kept(tokens_of(9), storage))
        cache.close()


@KEEPING
@pytest.mark.parametrize("reopen", [True, False])
def test_a_changed_byte_is_never_served(
    tmp_path: Path, storage: TokenStorage, reopen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    length = record_bytes(storage)
    for place in range(length, 2 * length, 3):
        folder = tmp_path / str(place)
        cache = open_cache(folder, storage, memory=0)
        for number in range(3):
            cache.store(key_of(number), tokens_of(number))
        found(cache, 0)  # so that the map is there already
        if reopen:
            cache.close()
        flip(segment_files(folder)[0], place)
        if reopen:
            cache = open_cache(folder, storage, memory=0)
        assert np.array_equal(found(cache, 0), kept(tokens_of(0), storage))
        assert cache.get(key_of(1)) is None, place
        assert cache.damaged == 1
        cache.store(key_of(1), tokens_of(1))
        assert np.array_equal(found(cache, 1), kept(tokens_of(1), storage))
        cache.close()
        shutil.rmtree(folder)


def test_a_file_that_becomes_shorter_while_it_is_open_is_no_end_of_the_process(tmp_path: Path) -> None:
    cache = TokenCache(FP16, memory_bytes=0, folder=tmp_path, disk_bytes=LARGE * 16)
    tokens = tokens_of(1, rows=200, width=64)  # more than a page, which a map could not read without the file
    cache.store(key_of(1), tokens)
    assert np.array_equal(found(cache, 1), kept(tokens, FP16))
    with segment_files(tmp_path)[0].open("r+b") as stream:
        stream.truncate(100)
    assert cache.get(key_of(1)) is None
    cache.close()
