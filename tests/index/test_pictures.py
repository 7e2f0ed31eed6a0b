from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from mplug_index import PictureRoot, PictureStore
from mplug_index.errors import (
    PictureAccessError,
    PictureCorruptError,
    PictureNotFoundError,
    PictureTooLargeError,
    StorageError,
)


def files_of(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_pictures_come_back_by_their_hash(tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "a" / "pictures")
    for data in (b"", b"picture", os.urandom(100_000)):
        name = store.put(data)
        assert name == hashlib.sha256(data).hexdigest()
        assert name in store
        assert store.get(name) == data
    assert PictureStore(tmp_path / "a" / "pictures").get(name) == data


def test_the_same_picture_is_one_file(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    name = store.put(b"picture")
    file = tmp_path / name[:2] / name
    before = file.stat().st_ino
    assert store.put(b"picture") == name
    assert file.stat().st_ino == before
    assert files_of(tmp_path) == [f"{name[:2]}/{name}"]


@pytest.mark.parametrize(
    "name", ["", "0" * 64, "../../etc/passwd", "A" * 64, "0" * 63 + "\n", "0" * 63, "\0"]
)
def test_a_name_of_nothing_finds_nothing(tmp_path: Path, name: str) -> None:
    store = PictureStore(tmp_path)
    assert name not in store
    assert 7 not in store
    with pytest.raises(PictureNotFoundError):
        store.get(name)


def test_a_damaged_picture_is_found_out_and_mended_by_putting_it_again(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    name = store.put(b"picture")
    (tmp_path / name[:2] / name).write_bytes(b"pic")
    with pytest.raises(PictureCorruptError, match="ingest it again"):
        store.get(name)
    store.put(b"picture")
    assert store.get(name) == b"picture"


def test_a_picture_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PictureStore(tmp_path)
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(fd: int) -> None:
        steps.append("fsync")
        fsync(fd)

    def noting_replace(old: str, new: Path) -> None:
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    store.put(b"picture")
    assert steps == ["fsync", "fsync", "rename", "fsync"]  # new folder's name; file; and the file's name
    store.put(b"picture")
    assert steps[4:] == ["fsync"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PictureStore(tmp_path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left") as raised:
            store.put(b"picture")
    assert str(tmp_path) not in str(raised.value)
    assert files_of(tmp_path) == []
    assert store.get(store.put(b"picture")) == b"picture"


def test_old_unfinished_files_are_dropped_and_new_ones_left(tmp_path: Path) -> None:
    PictureStore(tmp_path)
    for name, age in (("old", 10_000), ("new", 0)):
        file = tmp_path / "unfinished" / name
        file.write_bytes(b"x")
        os.utime(file, (file.stat().st_atime - age, file.stat().st_mtime - age))
    PictureStore(tmp_path)
    assert files_of(tmp_path) == ["unfinished/new"]


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used"):
        PictureStore(tmp_path / "f")


def test_many_threads_put_the_same_pictures(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    start = threading.Barrier(8)
    names: list[str] = []

    def put() -> None:
        start.wait()
        names.extend(store.put(bytes([number]) * 1000) for number in range(10))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 80
    assert len(files_of(tmp_path)) == len(set(names)) == 10
    assert all(len(store.get(name)) == 1000 for name in names)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with pictures, and a secret beside it."""
    root = tmp_path / "root"
    (root / "pets" / "cats").mkdir(parents=True)
    (root / "pets" / "cats" / "a.jpg").write_bytes(b"a cat")
    (root / "b ü.png").write_bytes(b"b")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "key").write_bytes(b"secret")
    (root / "inside").symlink_to("pets/cats")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "outside-file").symlink_to("../secret/key")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nothing")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("uri", ["pets/cats/a.jpg", "./pets//cats/a.jpg", "inside/a.jpg"])
def test_pictures_under_the_root_are_read(tree: Path, uri: str) -> None:
    root = PictureRoot(tree)
    assert root.read(uri, 5) == b"a cat"
    assert root.resolve(uri) == tree / "pets" / "cats" / "a.jpg"


def test_names_may_hold_spaces_and_any_letters(tree: Path) -> None:
    assert PictureRoot(tree).read("b ü.png", 100) == b"b"


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "",
            "/etc/passwd",
            "..",
            "../secret/key",
            "pets/../../secret/key",
            "../root2/key",
            "pets/../b ü.png",
        ),
        *(
            "outside/key",
            "outside-file",
            "outside",
            "loop",
            "pipe",
            "pets",
            ".",
            "a\0b",
            "x" * 5000,
            "\ud800",
        ),
    ],
)
def test_what_leads_out_or_is_no_picture_is_refused(tree: Path, uri: str) -> None:
    with pytest.raises(PictureAccessError) as raised:
        PictureRoot(tree).read(uri, 100)
    assert raised.value.field == "uri"
    assert str(tree) not in str(raised.value)


@pytest.mark.parametrize("uri", ["none.jpg", "pets/none/a.jpg", "pets/cats/a.jpg/b", "dangling"])
def test_what_is_not_there_is_said_so(tree: Path, uri: str) -> None:
    with pytest.raises(PictureNotFoundError, match="there is no image"):
        PictureRoot(tree).read(uri, 100)


def test_a_picture_may_have_as_many_bytes_as_the_caller_says(tree: Path) -> None:
    with pytest.raises(PictureTooLargeError, match="more than 4 bytes"):
        PictureRoot(tree).read("pets/cats/a.jpg", 4)


def test_a_link_put_in_after_the_check_is_not_followed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = PictureRoot(tree)
    checked = root.resolve("pets/cats/a.jpg")
    (tree / "pets").rename(tree / "moved")
    (tree / "pets").symlink_to(tree / "moved")
    monkeypatch.setattr(root, "resolve", lambda uri: checked)
    with pytest.raises(PictureAccessError, match="cannot be read"):
        root.read("pets/cats/a.jpg", 100)


def test_a_root_must_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    for path in (tmp_path / "f", tmp_path / "none"):
        with pytest.raises(PictureAccessError, match="no directory"):
            PictureRoot(path)
