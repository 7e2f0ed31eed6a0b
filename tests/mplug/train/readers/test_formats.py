"""Whatever kind of file rows are written as, they are read as the same examples."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_files import WRITERS, captioned, png, write_csv, write_jsonl, write_parquet
from mplug.errors import MplugError
from mplug.train.readers import open_source, parquet

ROWS = captioned(200)


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_come_back_with_their_pictures(tmp_path: Path, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path, ROWS), task="caption")
    assert source.num_examples() == 200
    examples = {example.captions: example for example in source}
    assert len(examples) == 200
    for number, row in enumerate(ROWS):
        example = examples[tuple(row["captions"])]
        assert example.captions_zh == tuple(row["captions_zh"])
        assert example.image is not None
        assert example.image.read() == png(number)
        assert (example.image_name, example.set_name) == (row["image"], "photo")
        assert example.identity == row["image"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_is_read_in_its_order_and_every_row_by_number(tmp_path: Path, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path, ROWS))
    keys = [example.key for example in source]
    assert keys == [row["id"] for row in ROWS]
    assert [source.read(row).key for row in range(200)] == keys


def test_the_folders_of_an_image_folder_are_its_splits(tmp_path: Path) -> None:
    splits = [example.split for example in open_source(WRITERS["folder"](tmp_path, ROWS))]
    assert sorted(splits) == ["train"] * 199 + ["validation"]


def test_the_text_column_of_an_image_folder_is_the_caption(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "text": "a dog"}]
    (example,) = open_source(write_jsonl(tmp_path, rows), task="caption")
    assert example.captions == ("a dog",)


def test_csv_cells_may_span_lines_and_hold_lists(tmp_path: Path) -> None:
    rows = [
        {"image": f"{n}.png", "captions": caption}
        for n, caption in enumerate(['a "big"\ndog, here', "[not a list", '["one", "two"]', "last"])
    ]
    source = open_source(write_csv(tmp_path, rows), task="caption")
    captions = [source.read(row).captions for row in range(4)]
    assert captions == [('a "big"\ndog, here',), ("[not a list",), ("one", "two"), ("last",)]
    assert source.read(3).origin.endswith("line 6")


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\n\n{"text": "y"}\n\n')
    examples = list(open_source(tmp_path / "a.jsonl"))
    assert [example.text for example in examples] == ["x", "y"]
    assert examples[1].origin.endswith("line 3")


def test_parquet_may_hold_paths(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["images/a.png"], "caption": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "pictures" / "images").mkdir(parents=True)
    (tmp_path / "pictures" / "images" / "a.png").write_bytes(png(1))
    (example,) = open_source(tmp_path / "a.parquet", images=tmp_path / "pictures")
    assert example.image is not None
    assert example.image.read() == png(1)


def test_a_row_group_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path, ROWS)
    monkeypatch.setattr("mplug.train.readers.parquet._HELD_BYTES", 100)
    with pytest.raises(MplugError, match="row_group_size"):
        open_source(path)


def test_only_a_few_row_groups_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug.train.readers.parquet._MAX_WINDOW", 3)
    reads: list[int] = []
    read_group = parquet._read_group

    def counted(path: Path, number: int) -> pa.Table:
        reads.append(number)
        return read_group(path, number)

    monkeypatch.setattr(parquet, "_read_group", counted)
    source = open_source(write_parquet(tmp_path, ROWS))
    cursor = source.cursor("s")
    keys = {source.read(cursor.at(position)).key for position in range(200)}
    assert len(keys) == 200
    assert sorted(reads) == list(range(29)), "each row group once"


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path, ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MplugError, match=r"mplug-serve\[train\]"):
        open_source(path)


def test_rows_that_a_predicate_keeps(tmp_path: Path) -> None:
    for kind in ("jsonl", "parquet", "shards"):
        (tmp_path / kind).mkdir()
        source = open_source(WRITERS[kind](tmp_path / kind, ROWS)).where(
            lambda e: e.captions[0].endswith("7")
        )
        assert source.num_examples() == 20
        assert {example.captions[0] for example in source} == {
            f"caption {n}7" if n else "caption 7" for n in range(20)
        }
