"""Prefetching: in order, bounded, broken pictures left out, threads ended."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data_files import captioned, write_jsonl
from mplug.errors import MplugError
from mplug.images import decode_image
from mplug.train.augment import AugmentConfig, augment
from mplug.train.loader import Loaded, Loader
from mplug.train.readers import Draw, Example, Mixture, open_source

Prepare = Callable[[Example, Draw], object]


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    return Mixture([(open_source(write_jsonl(tmp_path, captioned(40)), task="caption"), 1)])


def decode(example: Example, draw: Draw) -> bytes:
    assert example.image is not None
    picture = decode_image(example.image.read())
    return augment(picture, 16, AugmentConfig(), random.Random(f"7 {draw.number}"), example.texts()).tobytes()


def test_rows_come_in_the_order_of_their_draws(mixture: Mixture) -> None:
    turn = threading.Barrier(2)

    def prepare(example: Example, draw: Draw) -> int:
        if draw.number < 2:  # the first waits until the second is under way: they end out of order
            turn.wait(20)
        return draw.number

    with Loader(islice(mixture.draws(0), 30), prepare, threads=2, ahead=4) as loader:
        assert [loaded.value for loaded in loader] == list(range(30))


def test_no_more_than_ahead_is_begun(mixture: Mixture) -> None:
    drawn: list[int] = []

    def draws() -> Iterator[Draw]:
        for draw in mixture.draws(0):
            drawn.append(draw.number)
            yield draw

    with Loader(draws(), decode, threads=3, ahead=5) as loader:
        for taken, _ in enumerate(islice(loader, 20)):
            assert len(drawn) == taken + 5


def test_a_stream_entered_later_shows_the_same_pictures(mixture: Mixture) -> None:
    with Loader(mixture.draws(3), decode, threads=3) as loader:
        whole = list(islice(loader, 60))
    with Loader(mixture.draws(3, start=45), decode, threads=1, ahead=1) as loader:
        later = list(islice(loader, 15))
    assert later == whole[45:]
    assert len({loaded.value for loaded in whole}) > 45, "the second epoch is augmented otherwise"


def test_a_truncated_picture_is_left_out_and_all_else_stays(
    mixture: Mixture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def batches() -> tuple[list[list[Loaded[bytes]]], int]:
        with Loader(mixture.draws(0), decode) as loader:
            return list(islice(loader.batches(8), 5)), loader.num_broken

    whole, none_broken = batches()
    path = tmp_path / "images" / "photo" / "11.png"
    path.write_bytes(path.read_bytes()[:-30])
    with caplog.at_level(logging.WARNING):
        rest, one_broken = batches()
    assert (none_broken, one_broken) == (0, 1)
    assert "line 12" in caplog.text
    assert "ends before" in caplog.text
    lost = [row for batch in whole for row in batch if row.draw.reference == 11]
    assert rest == [[row for row in batch if row not in lost] for batch in whole]
    assert sum(map(len, whole)) - sum(map(len, rest)) == len(lost) == 1


def test_too_many_broken_pictures_are_an_error(mixture: Mixture, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / "images" / "photo" / f"{number}.png").unlink()
    with Loader(mixture.draws(0), decode) as loader:
        with pytest.raises(MplugError, match=r"11 of \d+ pictures.*more than 1\.0%.*line \d+.*Check"):
            list(loader)
        assert loader.num_broken == 11


def test_a_share_of_broken_pictures_may_be_allowed(mixture: Mixture, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / "images" / "photo" / f"{number}.png").unlink()
    with Loader(islice(mixture.draws(0), 400), decode, max_broken=0.6) as loader:
        assert len(list(loader)) == 200


def test_a_bad_row_and_a_fault_of_the_code_are_no_broken_pictures(mixture: Mixture, tmp_path: Path) -> None:
    def fault(example: Example, draw: Draw) -> None:
        raise KeyError("a fault")

    with Loader(mixture.draws(0), fault) as faulty, pytest.raises(KeyError):
        next(iter(faulty))
    (tmp_path / "bad.jsonl").write_text('{"captions": ["a"]}')
    bad = Mixture([(open_source(tmp_path / "bad.jsonl", task="caption"), 1)])
    with Loader(bad.draws(0), decode) as loader, pytest.raises(MplugError, match="line 1, field 'image'"):
        next(iter(loader))


def test_the_last_batch_may_be_short(mixture: Mixture) -> None:
    with Loader(islice(mixture.draws(0), 10), decode) as loader:
        assert [len(batch) for batch in loader.batches(4)] == [4, 4, 2]


def test_closing_ends_the_threads_and_drops_what_waits(mixture: Mixture) -> None:
    begun: list[int] = []
    gate = threading.Event()

    def prepare(example: Example, draw: Draw) -> int:
        begun.append(draw.number)
        if draw.number:
            assert gate.wait(20)
        return draw.number

    before = threading.active_count()
    loader = Loader(mixture.draws(0), prepare, threads=2, ahead=30)
    rows = iter(loader)
    assert next(rows).value == 0
    assert threading.active_count() == before + 2
    gate.set()
    loader.close()
    assert threading.active_count() == before
    assert list(rows) == []
    loader.close()


def test_pictures_are_those_of_the_file(mixture: Mixture) -> None:
    with Loader(islice(mixture.draws(0), 5), decode) as loader:
        for loaded in loader:
            assert np.frombuffer(loaded.value, np.uint8).size == 16 * 16 * 3
