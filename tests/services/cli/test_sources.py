import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mplug_services.cli.common import Refusal, UsageError
from mplug_services.cli.sources import find_items
from mplug_services.client import IngestItem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/notes.txt", ".hidden/d.png", "._e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def write_lines(folder: Path, *lines: Mapping[str, object] | str) -> str:
    file = folder / "list.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    file.write_text("\n".join(texts), encoding="utf-8")
    return str(file)


def test_a_folder_gives_its_pictures_by_relative_path(folder: Path) -> None:
    items = find_items([str(folder)])
    assert [item.id for item in items] == ["a.JPG", "b.png", "deep/er/c.webp"]
    assert items[2] == IngestItem("deep/er/c.webp", folder / "deep" / "er" / "c.webp")


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [("*.png", ["b.png"]), ("**/*.webp", ["deep/er/c.webp"]), ("deep/*/c.webp", ["er/c.webp"])],
)
def test_a_pattern_gives_ids_relative_to_its_fixed_part(folder: Path, pattern: str, ids: list[str]) -> None:
    assert [item.id for item in find_items([os.path.join(folder, pattern)])] == ids


def test_a_named_file_is_taken_whatever_its_name(folder: Path) -> None:
    assert find_items([str(folder / "deep" / "notes.txt")]) == [
        IngestItem("notes.txt", folder / "deep" / "notes.txt")
    ]


def test_json_lines_give_payload(folder: Path) -> None:
    file = write_lines(
        folder,
        {"image": "b.png", "label": "猫", "count": 3, "public": True, "tags": ["a", "b"], "none": None},
        "",
        {"image": "a.JPG", "id": "first", "taken": "2024-05-01T12:00:00"},
    )
    items = find_items([file], time_fields=["taken"])
    assert items == [
        IngestItem(
            "b.png", folder / "b.png", {"label": "猫", "count": 3.0, "public": True, "tags": ("a", "b")}
        ),
        IngestItem("first", folder / "a.JPG", {"taken": datetime(2024, 5, 1, 12, tzinfo=UTC)}),
    ]


@pytest.mark.parametrize(
    ("line", "id", "reason"),
    [
        ("{not json", "list.jsonl:1", "not JSON"),
        ("[1, 2]", "list.jsonl:1", "not an object"),
        ('{"label": "cat"}', "list.jsonl:1", '"image"'),
        ('{"image": "b.png", "size": {"w": 1}}', "b.png", "'size'"),
        ('{"image": "b.png", "tags": ["a", 1]}', "b.png", "'tags'"),
        ('{"image": "b.png", "taken": "yesterday"}', "b.png", "no time"),
        ('{"image": "b.png", "taken": 5}', "b.png", "no time"),
    ],
)
def test_a_bad_line_is_refused_and_the_others_stand(folder: Path, line: str, id: str, reason: str) -> None:
    bad, good = find_items([write_lines(folder, line, {"image": "a.JPG"})], time_fields=["taken"])
    assert isinstance(bad, Refusal)
    assert bad.id == id
    assert reason in bad.reason
    assert good == IngestItem("a.JPG", folder / "a.JPG")


def test_an_id_that_comes_twice_is_refused_the_second_time(folder: Path) -> None:
    items = find_items([str(folder / "b.png"), str(folder / "*.png")])
    assert isinstance(items[0], IngestItem)
    assert isinstance(items[1], Refusal)
    assert "more than once" in items[1].reason


def test_a_source_without_pictures_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture"):
        find_items([str(tmp_path)])
    with pytest.raises(UsageError, match="does not exist"):
        find_items([str(tmp_path / "gone")])


def test_a_list_that_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        find_items([str(file)])
