"""The work table: every row against every key of its image, once; and its compiled twin."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_kernels import ops
from mplug_kernels.planner import Item, Tiling, choose_splits, key_range, xattn_plan
from mplug_kernels.variants import WIDTHS, Variant

CSRC = Path(__file__).parents[2] / "kernels" / "csrc"
tilings = st.builds(
    Tiling, row_tile=st.integers(1, 70), key_tile=st.integers(1, 140), splits=st.integers(1, 9)
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[int], list[int], int, int, Tiling]:
    kv_lens = draw(st.lists(st.integers(0, 300), min_size=1, max_size=6))
    image_index = draw(st.lists(st.integers(0, len(kv_lens) - 1), max_size=9))
    return image_index, kv_lens, draw(st.integers(1, 20)), draw(st.integers(1, 4)), draw(tilings)


@settings(max_examples=150, deadline=None)
@given(call=calls())
def test_every_row_meets_every_key_of_its_image_once(
    call: tuple[list[int], list[int], int, int, Tiling],
) -> None:
    image_index, kv_lens, tokens, heads, tiling = call
    items, order = xattn_plan(image_index, kv_lens, tokens, heads, tiling)
    assert sorted(order) == list(range(len(image_index)))
    met: Counter[tuple[int, int, int, int]] = Counter()
    parts: Counter[tuple[int, int, int, int]] = Counter()
    for item in items:
        assert 1 <= item.num_rows <= tiling.row_tile
        assert item.key_begin % tiling.key_tile == 0 or item.key_begin == kv_lens[item.image]
        rows_of_head = item.sequences * tokens
        for row in range(item.first_row, item.first_row + item.num_rows):
            head, within = divmod(row, rows_of_head)
            sequence = order[item.first_sequence + within // tokens]
            assert image_index[sequence] == item.image
            parts[sequence, within % tokens, head, item.split] += 1
            for key in range(item.key_begin, item.key_end):
                met[sequence, within % tokens, head, key] += 1
    rows = [(s, t, h) for s in range(len(image_index)) for t in range(tokens) for h in range(heads)]
    assert met == Counter({(*row, key): 1 for row in rows for key in range(kv_lens[image_index[row[0]]])})
    # Also where there is nothing to attend to: its partial result is written all the same.
    assert parts == Counter({(*row, split): 1 for row in rows for split in range(tiling.splits)})


@settings(max_examples=100, deadline=None)
@given(call=calls())
def test_no_item_crosses_a_head_and_sequences_keep_their_order(
    call: tuple[list[int], list[int], int, int, Tiling],
) -> None:
    image_index, kv_lens, tokens, heads, tiling = call
    items, order = xattn_plan(image_index, kv_lens, tokens, heads, tiling)
    for item in items:
        rows_of_head = item.sequences * tokens
        assert item.first_row // rows_of_head == (item.first_row + item.num_rows - 1) // rows_of_head
    for first, second in pairwise(order):
        assert (image_index[first], first) < (image_index[second], second)


@given(keys=st.integers(0, 10_000), tiling=tilings)
def test_splits_are_even_to_a_tile_but_for_the_last(keys: int, tiling: Tiling) -> None:
    ranges = [key_range(keys, split, tiling) for split in range(tiling.splits)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == keys
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    lengths = [end - begin for begin, end in ranges if end > begin]
    assert all(length == lengths[0] for length in lengths[:-1])


@settings(max_examples=100, deadline=None)
@given(call=calls())
def test_the_operator_gives_the_same_table(call: tuple[list[int], list[int], int, int, Tiling]) -> None:
    # Where a library was compiled this is its own planner.
    image_index, kv_lens, tokens, heads, tiling = call
    items, order = xattn_plan(image_index, kv_lens, tokens, heads, tiling)
    plan = ops.make_plan(
        torch.tensor(image_index, dtype=torch.int32),
        torch.tensor(kv_lens, dtype=torch.int32),
        tokens=tokens,
        heads=heads,
        tiling=tiling,
        device=torch.device("cpu"),
    )
    assert [Item(*row) for row in plan.items.tolist()] == items
    assert plan.row_sequence.tolist() == order


@pytest.mark.parametrize(
    ("image_index", "kv_lens", "tokens", "message"),
    [
        ([0, 2], [5, 5], 1, "image_index holds 2; there are 2 images"),
        ([0, -1], [5, 5], 1, "image_index holds -1"),
        ([0], [-3], 1, "kv_lens of image 0 is -3"),
        ([0], [3], 0, "tokens is 0"),
    ],
)
def test_what_cannot_be_planned_is_named(
    image_index: list[int], kv_lens: list[int], tokens: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        xattn_plan(image_index, kv_lens, tokens, 1, Tiling(row_tile=4, key_tile=4))


def test_a_tiling_without_size_is_refused() -> None:
    with pytest.raises(ValueError, match="splits is 0; it must be at least 1"):
        Tiling(row_tile=4, key_tile=4, splits=0)


@given(
    blocks=st.integers(1, 2000),
    keys=st.integers(1, 10_000),
    key_tile=st.sampled_from([32, 64, 128]),
    processors=st.integers(1, 200),
)
def test_splits_fill_the_processors_and_no_more(
    blocks: int, keys: int, key_tile: int, processors: int
) -> None:
    splits = choose_splits(blocks, keys, key_tile, processors)
    assert 1 <= splits <= 8
    assert splits == 1 or -(-keys // key_tile) >= 4 * splits
    assert splits == 1 or blocks * (splits - 1) < processors


def test_tiles_and_widths_are_those_of_the_kernels() -> None:
    text = (CSRC / "plan.h").read_text()
    tiles = {name: int(value) for name, value in re.findall(r"constexpr int k(\w+Tile) = (\d+);", text)}
    for variant, name in ((Variant.KV, "Kv"), (Variant.ABSORBED_TWO, "Two"), (Variant.ABSORBED_ONE, "One")):
        assert variant.tile == (tiles[f"{name}RowTile"], tiles[f"{name}KeyTile"])
    launch = (CSRC / "launch.cuh").read_text()
    assert set(WIDTHS) <= {int(number) for number in re.findall(r"\b(\d{3,4})\b", launch)}
