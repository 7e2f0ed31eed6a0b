"""Orders: whole, seeded, and entered anywhere."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_files import captioned, write_shards
from mplug.train.readers.order import BlockOrder, Permutation, shuffle_within
from mplug.train.readers.rows import Columns
from mplug.train.readers.shards import ShardSource

SEEDS = st.text(max_size=5)


@given(size=st.integers(1, 600), seed=SEEDS)
def test_a_permutation_has_every_number_once(size: int, seed: str) -> None:
    permutation = Permutation(size, seed)
    assert sorted(permutation[place] for place in range(size)) == list(range(size))


def test_a_permutation_of_any_size_is_entered_at_once() -> None:
    permutation = Permutation(10**12, "s")
    places = [permutation[place] for place in range(10**11, 10**11 + 50)]
    assert len(set(places)) == 50
    assert max(places) > 5 * 10**11


def test_every_number_comes_to_every_place() -> None:
    counts = np.zeros((5, 5))
    for seed in range(4000):
        permutation = Permutation(5, f"seed {seed}")
        for place in range(5):
            counts[place, permutation[place]] += 1
    # 800 expected; five standard deviations of a binomial are 126.
    assert abs(counts - 800).max() < 126


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), window=st.integers(1, 6), seed=SEEDS)
def test_blocks_are_mixed_a_window_at_a_time(sizes: list[int], window: int, seed: str) -> None:
    starts = np.cumsum([0, *sizes[:-1]])
    order = BlockOrder(starts, sum(sizes), window, seed)
    rows = [order[place] for place in range(sum(sizes))]
    assert sorted(rows) == list(range(sum(sizes)))
    blocks = [int(np.searchsorted(starts, row, "right")) - 1 for row in rows]
    for place in range(len(rows)):
        begun_and_needed = set(blocks[: place + 1]) & set(blocks[place:])
        assert len(begun_and_needed) <= window


@given(size=st.integers(0, 80), capacity=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_buffer_passes_everything_on(size: int, capacity: int, seed: int) -> None:
    mixed = list(shuffle_within(range(size), capacity, random.Random(seed)))
    assert sorted(mixed) == list(range(size))
    assert all(number < place + capacity for place, number in enumerate(mixed)), (
        "nothing is read ahead of need"
    )


def test_a_buffer_mixes() -> None:
    firsts = Counter(next(shuffle_within(range(100), 50, random.Random(seed))) for seed in range(500))
    assert len(firsts) > 40


def test_shards_are_permuted_and_their_samples_mixed_in_the_buffer(tmp_path: Path) -> None:
    write_shards(tmp_path, captioned(30))
    shards = sorted(tmp_path.glob("*.tar"))
    source = ShardSource(shards, Columns(), shuffled=1)
    firsts = {next(source.epoch("s", epoch)).shard for epoch in range(20)}
    assert firsts == set(shards)
    in_line = [sample.key for sample in source.epoch("s", 0)]
    mixed = [sample.key for sample in ShardSource(shards, Columns(), shuffled=8).epoch("s", 0)]
    assert sorted(in_line) == sorted(mixed)
    assert in_line != mixed
