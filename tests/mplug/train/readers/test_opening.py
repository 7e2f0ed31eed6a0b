"""What a path or pattern is taken for."""

import tarfile
from pathlib import Path

import pytest

from data_files import add_member, captioned, png, write_jsonl, write_parquet, write_shards
from mplug.errors import MplugError
from mplug.train.readers import open_source


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add_member(archive, name, data)
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.jsonl", None, "No file.*absent"),
        ("absent.parquet", None, "No file.*absent"),
        ("absent.tar", None, "No shard.*absent"),
        ("absent-*.jsonl", None, "Nothing matches.*parquet"),
        ("a.json", b"[]", r"name it \.jsonl"),
        ("a.tar.gz", b"", "unpack"),
        ("a.txt", b"", r"unknown kind of data '\.txt'.*\.csv"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1: not UTF-8"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"image,captions\n", "has no rows"),
        ("a.csv", b"image,captions\nx.png,a,b\n", "line 2: 3 cells under 2 columns"),
        ("a.csv", b'image,captions\nx.png,"open\n', "line 2: .*quote"),
        ("a.csv", b"image,image\nx,y\n", "two columns"),
        ("a.parquet", b"PAR1 no", "not a Parquet file"),
        ("a.tar", b"no tar at all" * 99, "uncompressed tar"),
    ],
)
def test_what_cannot_be_opened_is_said(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MplugError, match=said):
        list(open_source(tmp_path / name))


def test_a_folder_without_data_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("A card.")
    with pytest.raises(MplugError, match=r"metadata\.jsonl"):
        open_source(tmp_path)


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    write_jsonl(tmp_path, captioned(3))
    write_parquet(tmp_path, captioned(3))
    with pytest.raises(MplugError, match=r"\.jsonl, \.parquet"):
        open_source(tmp_path / "rows.*")


@pytest.mark.parametrize("pattern", ["{08..11}.jsonl", "{08,09,10,11}.jsonl", "*.jsonl"])
def test_patterns_name_several_files(tmp_path: Path, pattern: str) -> None:
    for number in range(8, 12):
        (tmp_path / f"{number:02}.jsonl").write_text(f'{{"text": "{number}"}}\n{{"text": "{number}b"}}\n')
    source = open_source(tmp_path / pattern)
    texts = [example.text for example in source]
    assert texts == ["8", "8b", "9", "9b", "10", "10b", "11", "11b"]
    assert [source.read(row).text for row in range(8)] == texts


def test_a_missing_shard_of_a_pattern_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, captioned(9))
    with pytest.raises(MplugError, match=r"003\.tar"):
        open_source(tmp_path / "{000..003}.tar")


def test_members_of_a_shard_by_their_endings(tmp_path: Path) -> None:
    tar(
        tmp_path / "a.tar",
        ("__meta__.json", b"{}"),
        ("photo/1.JPG", b"jpeg"),
        ("photo/1.txt", b"a dog"),
        ("photo/1.cls", b"7"),
        ("photo/1.seg.png", b"not the picture"),
        ("photo/2.png", png(2)),
        ("photo/2.json", b'{"caption": "two", "split": "val"}'),
    )
    first, second = open_source(tmp_path / "a.tar")
    assert first.image is not None
    assert (first.key, first.image_name, first.captions, first.label) == (
        "photo/1",
        "photo/1.jpg",
        ("a dog",),
        "7",
    )
    assert first.image.read() == b"jpeg"
    assert (second.captions, second.split, second.set_name) == (("two",), "val", "photo")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.json", b"{")], "sample 'a': its .json is no JSON"),
        ([("a.json", b"[]")], "sample 'a': its .json holds list"),
        ([("a.txt", b"\xff")], "sample 'a': its .txt is not UTF-8"),
        ([("a.txt", b"x"), ("a.txt", b"y")], r"sample 'a': two \.txt members"),
        ([("a.txt", b"x")], "sample 'a', field 'image': missing"),
    ],
)
def test_a_bad_sample_is_named(tmp_path: Path, members: list[tuple[str, bytes]], said: str) -> None:
    with pytest.raises(MplugError, match=rf"a\.tar, {said}"):
        list(open_source(tar(tmp_path / "a.tar", *members), task="caption"))


def test_a_cut_shard_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("a.png", b"x" * 5000))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(MplugError, match=r"a\.tar.*copy cut ones"):
        list(open_source(path))


def test_no_torch_is_needed_to_read(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = f"""
import sys
from mplug.train.readers import Mixture, open_source
next(Mixture([(open_source({write_jsonl(tmp_path, captioned(3))!r}), 1)]).stream(0))
assert "torch" not in sys.modules and "pyarrow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
