import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
LICENCES = {"Apache-2.0", "CC-BY-4.0", "MIT", "CC0-1.0", "CC-BY-2.0", "public domain"}


@pytest.fixture(scope="module")
def entries() -> list[dict[str, str]]:
    lines = (GALLERY / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_gallery_holds_drawings_scenes_and_photos(entries: list[dict[str, str]]) -> None:
    kinds = Counter(entry["kind"] for entry in entries)
    assert 380 <= kinds["drawing"] <= 420
    assert kinds["scene"] == 60
    assert kinds["photo"] >= 10


def test_every_line_has_its_picture_and_every_picture_its_line(entries: list[dict[str, str]]) -> None:
    files = {
        path.relative_to(GALLERY).as_posix() for path in (GALLERY / "images").rglob("*") if path.is_file()
    }
    assert {entry["image"] for entry in entries} == files
    assert len(entries) == len(files)


def test_the_gallery_is_small() -> None:
    assert sum(path.stat().st_size for path in GALLERY.rglob("*") if path.is_file()) <= 4 * 2**20


def test_every_picture_opens_and_is_not_blank(entries: list[dict[str, str]]) -> None:
    for entry in entries:
        with Image.open(GALLERY / entry["image"]) as image:
            assert image.mode in ("RGB", "L"), entry["image"]
            assert max(image.size) <= 320
            assert len(set(image.convert("L").tobytes())) > 8, f"{entry['image']} is blank"


def test_every_picture_is_labelled_in_both_languages(entries: list[dict[str, str]]) -> None:
    for entry in entries:
        assert entry["label"].isascii()
        assert any("\u4e00" <= character <= "\u9fff" for character in entry["label_zh"])
        assert entry["tags"]


def test_every_licence_allows_it_and_stands_in_the_credits(entries: list[dict[str, str]]) -> None:
    text = (GALLERY / "CREDITS.md").read_text(encoding="utf-8")
    assert {entry["licence"] for entry in entries} <= LICENCES
    for entry in entries:
        assert entry["licence"] in text
        if entry["kind"] == "photo":
            assert entry["source"].split(", ")[-1] in text
        else:
            assert entry["source"].removeprefix("composed from ") in text
    assert "openmoji" not in text.lower()
