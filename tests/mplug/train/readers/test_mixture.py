"""Streams: entered anywhere they are the same, shared out they are whole, mixed they keep their weights."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import WRITERS, captioned
from mplug.errors import MplugError
from mplug.train.readers import Mixture, Source, open_source

SIZE = 30
Open = Callable[[str], Source[Any]]


@pytest.fixture(scope="module")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Open:
    @cache
    def open_kind(kind: str) -> Source[Any]:
        folder: Path = tmp_path_factory.mktemp(kind.replace(" ", "-"))
        return open_source(WRITERS[kind](folder, captioned(SIZE)))

    return open_kind


def keys(mixture: Mixture, count: int, **where: int) -> list[str]:
    return [example.captions[0] for example in islice(mixture.stream(**{"seed": 0, **where}), count)]


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**70), start=st.integers(0, 3 * SIZE))
def test_a_stream_entered_anywhere_goes_on_as_it_would_have(
    source_of: Open, kind: str, seed: int, start: int
) -> None:
    mixture = Mixture([(source_of(kind), 1)])
    whole = islice(mixture.draws(seed), start, start + 10)
    assert keys(mixture, 10, seed=seed, start=start) == [draw.read().captions[0] for draw in whole]


@pytest.mark.parametrize("kind", WRITERS)
def test_each_epoch_is_whole_and_in_an_order_of_its_own(source_of: Open, kind: str) -> None:
    mixture = Mixture([(source_of(kind), 1)])
    first, second = (keys(mixture, SIZE, seed=5, start=start) for start in (0, SIZE))
    assert sorted(first) == sorted(second) == sorted(f"caption {n}" for n in range(SIZE))
    assert first != second
    assert first != keys(mixture, SIZE, seed=6)
    assert first == keys(mixture, SIZE, seed=5)


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=6, deadline=None)
@given(world=st.integers(1, 5), start=st.integers(0, SIZE))
def test_the_shares_of_ranks_are_the_stream_of_one(
    source_of: Open, kind: str, world: int, start: int
) -> None:
    mixture = Mixture([(source_of(kind), 1)])
    shares = [keys(mixture, 12, rank=rank, world=world, start=start) for rank in range(world)]
    together = [key for turn in zip(*shares, strict=True) for key in turn]
    assert together == keys(mixture, 12 * world, start=start * world)


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 9000), world=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_mixture_entered_anywhere_goes_on(source_of: Open, start: int, world: int, seed: int) -> None:
    mixture = Mixture([(source_of("jsonl"), 3), (source_of("parquet"), 1.5), (source_of("shards"), 0.5)])
    count = start + 20
    whole = list(islice(mixture.draws(seed, 0, world - 1, world), start, count))
    later = list(islice(mixture.draws(seed, start, world - 1, world), 20))
    assert later == whole


def test_weights_are_kept_and_sources_go_round(source_of: Open) -> None:
    sources = [source_of(kind) for kind in ("jsonl", "csv", "parquet")]
    mixture = Mixture(list(zip(sources, (6, 3, 1), strict=True)))
    draws = list(islice(mixture.draws(1), 20_000))
    counts = Counter(id(draw.source) for draw in draws)
    # Five standard deviations of 20,000 draws are at most 354.
    assert all(abs(counts[id(s)] - n) < 354 for s, n in zip(sources, (12_000, 6000, 2000), strict=True))
    rows = Counter(draw.reference for draw in draws if draw.source is sources[2])
    assert set(rows) == set(range(SIZE))
    assert max(rows.values()) - min(rows.values()) <= 1, "a source is drawn through before it begins anew"
    assert [draw.number for draw in draws] == list(range(20_000))


def test_two_parts_of_one_source_are_shuffled_apart(source_of: Open) -> None:
    mixture = Mixture([(source_of("jsonl"), 1), (source_of("jsonl"), 1)])
    numbers = [draw.reference for draw in islice(mixture.draws(0), 20)]
    assert len(set(numbers)) > 10


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [float("nan")]])
def test_a_weight_must_be_above_zero(source_of: Open, weights: list[float]) -> None:
    with pytest.raises(MplugError, match="above 0"):
        Mixture([(source_of("jsonl"), weight) for weight in weights])


def test_a_filter_keeps_its_order_when_entered_anywhere(source_of: Open) -> None:
    for kind in ("jsonl", "parquet", "shards"):
        mixture = Mixture([(source_of(kind).where(lambda e: e.captions[0][-1] in "13579"), 1)])
        assert keys(mixture, 30, start=20) == keys(mixture, 50)[20:]
        assert len(set(keys(mixture, 15))) == 15
