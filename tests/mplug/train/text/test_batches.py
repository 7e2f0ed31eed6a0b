"""Batches of texts: what is learnt of a row, and which rows meet."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from mplug.train.text.batches import bucketed_order, collate
from mplug.train.text.families import TextExample


def test_only_what_follows_the_given_tokens_is_learnt() -> None:
    rows = [TextExample((), (2, 7, 8, 9, 3), given=3), TextExample((5, 6), (2, 7, 3), given=1)]
    batch = collate(rows, pad_id=0)
    assert batch.ids_BL.tolist() == [[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]]
    assert batch.source_BN.tolist() == [[0, 0], [5, 6]]
    assert batch.counts_BL.tolist() == [[False, False, True, True], [True, True, False, False]]


def test_a_batch_without_sources_has_none() -> None:
    batch = collate([TextExample((), (2, 3), 1)], pad_id=1)
    assert batch.source_BN.shape == (1, 0)
    assert batch.source_BN.dtype == torch.int64


@given(
    st.lists(st.integers(1, 300), min_size=8, max_size=200),
    st.integers(1, 8),
    st.integers(0, 3),
)
def test_an_epoch_has_every_row_at_most_once_and_drops_less_than_a_batch_of_a_pool(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    order = bucketed_order(lengths, [1.0] * len(lengths), batch_size, random.Random(seed))
    assert len(set(order)) == len(order) == len(lengths) // batch_size * batch_size


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.75, 3.0]), min_size=4, max_size=60), st.integers(0, 9))
def test_rows_come_as_often_as_their_weights_say(repeats: list[float], seed: int) -> None:
    order = bucketed_order([1] * len(repeats), repeats, 1, random.Random(seed))
    assert len(order) == sum(int(each) for each in repeats) + round(sum(each % 1 for each in repeats))
    for row, repeat in enumerate(repeats):
        assert int(repeat) <= order.count(row) <= int(repeat) + 1


def test_neighbours_are_of_like_length() -> None:
    chance = random.Random(0)
    lengths = [chance.randrange(10, 250) for _ in range(640)]
    order = bucketed_order(lengths, [1.0] * 640, 16, random.Random(1))
    batches = [[lengths[row] for row in order[at : at + 16]] for at in range(0, 640, 16)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches != sorted(batches)  # in no order of length


def test_epochs_differ_and_seeds_repeat() -> None:
    orders = [bucketed_order([1] * 50, [1.0] * 50, 4, random.Random(seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
