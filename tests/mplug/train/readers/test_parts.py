"""Several parts of data: weights by text, and names that tell pictures of different folders apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_files import WRITERS, captioned
from mplug.errors import MplugError
from mplug.train.readers import DataPart, Mixture
from mplug.train.readers.opening import folder_of
from mplug.train.readers.parts import open_parts, parts_of, single_folder


def write(file: Path, *rows: dict[str, Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("rows.jsonl", DataPart("rows.jsonl")),
        ("rows.jsonl=2", DataPart("rows.jsonl", 2.0)),
        ("a=b/{000..009}.tar=0.5", DataPart("a=b/{000..009}.tar", 0.5)),
        ("rows.jsonl=1e-3", DataPart("rows.jsonl", 1e-3)),
        ("a=b.jsonl", DataPart("a=b.jsonl")),
        ("=2", DataPart("=2")),
    ],
)
def test_a_text_may_end_in_a_weight(text: str, part: DataPart) -> None:
    assert parts_of(text) == [part]


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_every_weight_comes_back_as_it_was_written(weight: float) -> None:
    assert parts_of([f"rows.csv={weight!r}"]) == [DataPart("rows.csv", weight)]


def test_what_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl=2", {})
    assert parts_of(file) == [DataPart(file)]
    assert parts_of([Path("gone=2"), DataPart("gone=2", 3)]) == [
        DataPart(Path("gone=2")),
        DataPart("gone=2", 3),
    ]


@pytest.mark.parametrize("text", ["rows.jsonl=0", "rows.jsonl=-1", "rows.jsonl=nan", "rows.jsonl=inf"])
def test_a_weight_is_above_zero(text: str) -> None:
    with pytest.raises(MplugError, match=r"rows\.jsonl has the weight .* above 0"):
        parts_of(text)


def test_no_part_is_no_data() -> None:
    with pytest.raises(MplugError, match="no data"):
        parts_of([])


def test_a_recipe_of_one_folder_takes_no_more() -> None:
    assert single_folder("pictures") == Path("pictures")
    for data in (["a", "b=2"], "a=2"):
        with pytest.raises(MplugError, match="one folder"):
            single_folder(data)


@pytest.mark.parametrize(
    ("where", "folder"),
    [
        ("a/b/rows.jsonl", "a/b"),
        ("a/*/rows.jsonl", "a"),
        ("a/b/{0..3}.tar", "a/b"),
        ("*.csv", "."),
        ("r.csv", "."),
    ],
)
def test_the_folder_of_a_pattern(where: str, folder: str) -> None:
    assert folder_of(where) == Path(folder)


def test_pictures_of_two_folders_are_told_apart_and_one_of_two_files_is_one(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there" / "deep"
    row = {"image": "0.png", "captions": ["a"]}
    files = [
        write(here / "one.jsonl", row, {**row, "emoji": "🐶"}),
        write(here / "two.jsonl", row),
        write(there / "three.jsonl", row),
    ]
    one, two, three = (list(source) for source in open_parts(parts_of(files), "caption"))
    assert [each.image_name for each in (*one, *two, *three)] == ["here/0.png"] * 3 + ["there/deep/0.png"]
    assert [each.identity for each in (*one, *two, *three)] == [
        "here/0.png",
        "🐶",
        "here/0.png",
        "there/deep/0.png",
    ]
    (alone,) = open_parts(parts_of(files[0]), "caption")
    assert next(iter(alone)).image_name == "0.png"
    same = open_parts(parts_of(files[:2]), "caption")
    assert [next(iter(source)).image_name for source in same] == ["0.png", "0.png"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_placed_source_is_read_filtered_and_shuffled_as_the_other(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = [
        WRITERS[kind](tmp_path / "a", captioned(12)),
        write(tmp_path / "b.jsonl", {"image": "x", "captions": "x"}),
    ]
    (plain,) = open_parts(parts_of(files[0]), "caption")
    placed, _ = open_parts(parts_of(files), "caption")
    ending: Callable[[Any], bool] = lambda example: example.image_name.endswith(("3.png", "4.png"))  # noqa: E731
    for first, second in ((plain, placed), (plain.where(ending), placed.where(ending))):
        orders = [list(islice(Mixture([(each, 1.0)]).stream(3, 5), 20)) for each in (first, second)]
        assert [f"a/{each.image_name}" for each in orders[0]] == [each.image_name for each in orders[1]]
        assert second.num_examples() == first.num_examples() == len(list(second))
        assert [second.read(each).image_name for each in second.references()] == [
            each.image_name for each in second
        ]


def test_a_draw_knows_its_place_among_those_of_its_source(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", *captioned(4)) for name in "ab"]
    first, second = open_parts(parts_of(files), "caption")
    mixture = Mixture([(first, 3), (second, 1)])
    draws = list(islice(mixture.draws(0), 40))
    for source in (first, second):
        places = [draw.place for draw in draws if draw.source is source]
        assert places == list(range(len(places)))
    assert [draw.place for draw in islice(mixture.draws(0, 25), 15)] == [draw.place for draw in draws[25:]]
