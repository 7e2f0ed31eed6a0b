"""The cache of image tokens, by cases and beside a dict."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mplug_services.stored_tokens import size_in_bytes
from mplug_services.token_cache import TokenCache, TokenKey, TokenStorage
from mplug_services.token_segments import SegmentsBusyError, TokenSegments
from services.token_samples import (
    FP16,
    INT8,
    KEEPING,
    LARGE,
    ROWS,
    WIDTH,
    Halves,
    flip,
    found,
    kept,
    key_of,
    open_cache,
    record_bytes,
    segment_files,
    tokens_of,
)


@KEEPING
def test_storing_returns_what_is_found_later(tmp_path: Path, storage: TokenStorage) -> None:
    cache = open_cache(tmp_path, storage)
    first = cache.store(key_of(1), tokens_of(1))
    assert np.array_equal(first, kept(tokens_of(1), storage))
    found = cache.get(key_of(1))
    assert found is not None
    assert found.dtype == np.float16
    assert np.array_equal(found, first)
    cache.close()


def test_none_keeps_nothing(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", TokenStorage.NONE)
    tokens = tokens_of(1)
    assert cache.store(key_of(1), tokens) is tokens
    assert cache.get(key_of(1)) is None
    assert not (tmp_path / "cache").exists()


def test_what_is_kept_does_not_follow_its_callers_array(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    tokens = tokens_of(1).astype(np.float16).astype(np.float32)
    cache.store(key_of(1), tokens)
    tokens[:] = 0
    assert np.array_equal(found(cache, 1), tokens_of(1).astype(np.float16))
    cache.close()


def test_another_tower_is_another_key(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.store(key_of(1, "one"), tokens_of(1))
    assert cache.get(key_of(1, "two")) is None
    cache.close()


@KEEPING
@pytest.mark.parametrize("memory", [0, LARGE])
def test_it_survives_a_restart(tmp_path: Path, storage: TokenStorage, memory: int) -> None:
    for start in range(3):
        cache = open_cache(tmp_path, storage, memory=memory)
        for number in range(start * 10):
            assert np.array_equal(found(cache, number), kept(tokens_of(number), storage))
        for number in range(start * 10 + 10):
            cache.store(key_of(number), tokens_of(number))
        cache.close()
    assert sum(file.stat().st_size for file in segment_files(tmp_path)) == 30 * record_bytes(storage)


def test_records_of_another_form_are_notfound(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, FP16)
    cache.store(key_of(1), tokens_of(1))
    cache.close()
    cache = open_cache(tmp_path, INT8)
    assert cache.get(key_of(1)) is None
    cache.close()


def test_the_least_recently_used_leaves_memory_first() -> None:
    size = size_in_bytes(FP16, ROWS, WIDTH)
    cache = TokenCache(FP16, memory_bytes=3 * size + size // 2)
    for number in (1, 2, 3):
        cache.store(key_of(number), tokens_of(number))
    found(cache, 1)
    cache.store(key_of(4), tokens_of(4))
    assert [number for number in (1, 2, 3, 4) if cache.get(key_of(number)) is not None] == [1, 3, 4]
    assert cache.memory_used == 3 * size


def test_a_folder_in_use_leaves_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = open_cache(tmp_path)
    with pytest.raises(SegmentsBusyError):
        TokenSegments(tmp_path, FP16, LARGE)
    second = open_cache(tmp_path)
    assert "memory only" in caplog.text
    second.store(key_of(1), tokens_of(1))
    assert np.array_equal(found(second, 1), kept(tokens_of(1), FP16))
    assert segment_files(tmp_path) == []
    second.close()
    first.close()
    third = open_cache(tmp_path)
    third.store(key_of(1), tokens_of(1))
    assert len(segment_files(tmp_path)) == 1
    third.close()


def test_a_folder_that_cannot_be_made_leaves_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = open_cache(tmp_path / "file" / "cache")
    cache.store(key_of(1), tokens_of(1))
    assert np.array_equal(found(cache, 1), kept(tokens_of(1), FP16))


def test_a_full_disk_costs_nothing_but_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path, memory=0)
    cache.store(key_of(1), tokens_of(1))
    (file,) = segment_files(tmp_path)
    write = os.pwrite

    def half(fd: int, data: memoryview, place: int) -> int:
        if len(data) < record_bytes(FP16):
            raise OSError(28, "No space left on device")
        return write(fd, data[:40], place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        assert np.array_equal(cache.store(key_of(2), tokens_of(2)), kept(tokens_of(2), FP16))
    assert cache.get(key_of(2)) is None
    assert file.stat().st_size == record_bytes(FP16)
    cache.store(key_of(3), tokens_of(3))
    cache.close()
    cache = open_cache(tmp_path, memory=0)
    assert np.array_equal(found(cache, 1), kept(tokens_of(1), FP16))
    assert np.array_equal(found(cache, 3), kept(tokens_of(3), FP16))
    assert cache.damaged == 0
    cache.close()


def test_many_threads(tmp_path: Path) -> None:
    cache = TokenCache(FP16, memory_bytes=600, folder=tmp_path, disk_bytes=200_000)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 30, 200).tolist():
            found = cache.get(key_of(number))
            if found is None:
                found = cache.store(key_of(number), tokens_of(number)).astype(np.float16)
            if not np.array_equal(found, kept(tokens_of(number), FP16)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    cache.close()


class _Machine(RuleBasedStateMachine):
    """A cache beside a dict of what was stored in it."""

    memory = disk = LARGE
    storage = FP16

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.stored: dict[TokenKey, Halves] = {}
        self.cache = self._open()

    def _open(self) -> TokenCache:
        return TokenCache(self.storage, memory_bytes=self.memory, folder=self.folder, disk_bytes=self.disk)

    @rule(number=st.integers(0, 30), rows=st.integers(1, 6))
    def store(self, number: int, rows: int) -> None:
        key = key_of(number * 10 + rows)  # a key's tokens never change
        tokens = tokens_of(number, rows=rows)
        assert np.array_equal(self.cache.store(key, tokens), kept(tokens, self.storage))
        self.stored[key] = kept(tokens, self.storage)

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([*self.stored, key_of(10_000)]))
        self.check(key, self.cache.get(key))

    @rule()
    def reopen(self) -> None:
        self.cache.close()
        self.cache = self._open()

    def check(self, key: TokenKey, found: Halves | None) -> None:
        raise NotImplementedError

    @invariant()
    def within_the_budgets(self) -> None:
        assert self.cache.memory_used <= self.memory
        assert self.cache.disk_used <= self.disk
        assert self.cache.disk_used == sum(file.stat().st_size for file in segment_files(self.folder))

    def teardown(self) -> None:
        for key in self.stored:
            self.check(key, self.cache.get(key))
        self.cache.close()
        shutil.rmtree(self.folder)


class RoomyMachine(_Machine):
    """With room for everything, it is the dict."""

    storage = INT8
    memory = 400

    def check(self, key: TokenKey, found: Halves | None) -> None:
        expected = self.stored.get(key)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert np.array_equal(found, expected)
        assert self.cache.damaged == 0


class CrampedMachine(_Machine):
    """With little room and a bad disk, what it gives is right or nothing."""

    memory = 300
    disk = 3000

    @precondition(lambda self: bool(segment_files(self.folder)))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        self.cache.close()
        file = data.draw(st.sampled_from(segment_files(self.folder)))
        place = data.draw(st.integers(0, max(0, file.stat().st_size - 1)))
        if data.draw(st.booleans()):
            with file.open("r+b") as stream:
                stream.truncate(place)
        elif file.stat().st_size:
            flip(file, place)
        self.cache = self._open()

    def check(self, key: TokenKey, found: Halves | None) -> None:
        if found is not None:
            assert np.array_equal(found, self.stored[key])


BOUNDS = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("machine", [RoomyMachine, CrampedMachine])
def test_beside_a_dict(machine: type[_Machine]) -> None:
    run_state_machine_as_test(machine, settings=BOUNDS)
