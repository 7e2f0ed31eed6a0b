"""Which pictures may be trained on, for rows of any kind."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_files import WRITERS
from mplug.train.config import DataConfig
from mplug.train.readers import open_source
from mplug.train.splits import Pictured, Split, _Smallest, plan_splits, set_of

CONFIG = DataConfig(num_dev_images=5)


def photos(count: int, published: str = "train") -> list[Pictured]:
    return [Pictured(f"images/photo/{published}{n}.png", "photo", published) for n in range(count)]


def counts(pictures: list[Pictured], config: DataConfig = CONFIG) -> dict[Split, int]:
    plan = plan_splits(pictures, config)
    splits = [plan.split(picture) for picture in pictures]
    return {split: splits.count(split) for split in Split if split in splits}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_one_held_out_split_is_reported_and_training_pictures_choose(name: str) -> None:
    assert counts(photos(20) + photos(3, name)) == {Split.TRAIN: 15, Split.DEV: 5, Split.VAL: 3}


def test_beside_a_test_split_validation_chooses() -> None:
    pictures = photos(20) + photos(4, "validation") + photos(3, "test")
    assert counts(pictures) == {Split.TRAIN: 20, Split.DEV: 4, Split.VAL: 3}


def test_a_published_dev_split_is_kept() -> None:
    assert counts(photos(20) + photos(4, "dev")) == {Split.TRAIN: 20, Split.DEV: 4}


def test_unknown_names_publish_nothing() -> None:
    split = counts(photos(1000, "demo"))
    assert split.keys() == {Split.TRAIN, Split.HELD_OUT}
    assert 60 < split[Split.HELD_OUT] < 140


def test_several_sets_give_their_dev_pictures_together() -> None:
    pictures = photos(20) + photos(2, "val")
    pictures += [Pictured(p.image.replace("photo", "flower"), "flower", p.published) for p in pictures]
    assert counts(pictures) == {Split.TRAIN: 35, Split.DEV: 5, Split.VAL: 4}


@given(order=st.permutations(photos(20) + photos(3, "val")), repeats=st.integers(1, 3))
def test_neither_order_nor_repetition_of_rows_matters(order: list[Pictured], repeats: int) -> None:
    once = plan_splits(photos(20) + photos(3, "val"), CONFIG)
    again = plan_splits([picture for picture in order for _ in range(repeats)], CONFIG)
    assert [once.split(picture) for picture in order] == [again.split(picture) for picture in order]


def test_planning_holds_no_more_numbers_than_dev_pictures() -> None:
    smallest = _Smallest(3)
    for value in (9, 4, 4, 7, 1, 8, 1):
        smallest.add(value)
    assert smallest.values == [1, 4, 7]


@pytest.mark.parametrize(
    ("image", "name"),
    [("images/emoji/noto/a.png", "emoji"), ("images/a.png", "images"), ("a.png", ""), ("", "")],
)
def test_a_set_is_a_folder(image: str, name: str) -> None:
    assert set_of(image) == name


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "shards"])
def test_every_kind_of_source_is_split_by_the_rule(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"image": f"images/photo/{n}.png", "captions": [f"{n}"], "split": "val" if n < 3 else "train"}
        for n in range(20)
    ]
    source = open_source(WRITERS[kind](tmp_path, rows))
    plan = plan_splits((Pictured(e.image_name, e.set_name, e.split) for e in source), CONFIG)
    parts = {
        split: {
            e.captions[0]
            for e in source.where(
                lambda e, split=split: plan.split(Pictured(e.image_name, e.set_name, e.split)) == split  # type: ignore[misc]
            )
        }
        for split in (Split.TRAIN, Split.DEV, Split.VAL)
    }
    assert {split: len(part) for split, part in parts.items()} == {
        Split.TRAIN: 12,
        Split.DEV: 5,
        Split.VAL: 3,
    }
    assert set.union(*parts.values()) == {str(n) for n in range(20)}
    expected = plan_splits([Pictured(r["image"], "photo", r["split"]) for r in rows], CONFIG)
    assert plan.last_dev == expected.last_dev
