import json
from pathlib import Path

import pytest

from mplug.errors import MplugError
from mplug.train.config import DataConfig
from mplug.train.data import Split, read_captions


def write(folder: Path, *records: dict[str, object]) -> Path:
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return folder


def record(image: str, **more: object) -> dict[str, object]:
    return {"image": image, "captions": ["a", "b"], **more}


def photos(count: int) -> list[dict[str, object]]:
    return [record(f"images/photo/{n}.webp", split="val" if n < 3 else "train") for n in range(count)]


def test_a_published_split_is_kept_and_gives_the_dev_images(tmp_path: Path) -> None:
    images = read_captions(write(tmp_path, *photos(20)), DataConfig(num_dev_images=5))
    counts = {split: sum(i.split == split for i in images) for split in Split}
    assert counts == {Split.TRAIN: 12, Split.DEV: 5, Split.VAL: 3, Split.HELD_OUT: 0, Split.UNSEEN_STYLE: 0}


def test_other_sets_hold_out_about_a_tenth_and_the_same_names_in_every_style(tmp_path: Path) -> None:
    records = [
        record(f"images/emoji/{style}/{n:x}.webp") for style in ("noto", "twemoji") for n in range(1000)
    ]
    images = read_captions(write(tmp_path, *records), DataConfig())
    held = [
        {Path(i.path).name for i in images if i.split == Split.HELD_OUT and s in i.path}
        for s in ("noto", "twemoji")
    ]
    assert held[0] == held[1]
    assert 60 < len(held[0]) < 140


def test_an_unseen_style_is_never_trained_on(tmp_path: Path) -> None:
    records = [record(f"images/emoji/fluentflat/{n:x}.webp") for n in range(50)]
    images = read_captions(write(tmp_path, *records), DataConfig())
    assert {i.split for i in images} == {Split.UNSEEN_STYLE}


def test_one_emoji_in_two_styles_is_one_identity(tmp_path: Path) -> None:
    records = [record(f"images/emoji/{s}/1f436.webp", emoji="🐶") for s in ("noto", "twemoji")]
    first, second = read_captions(write(tmp_path, *records), DataConfig())
    assert first.identity == second.identity


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "line 2"),
        ('{"captions": []}', "image"),
        ('{"image": "x"}', "captions"),
        ("[]", "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "captions.jsonl").write_text(json.dumps(record("images/photo/a.webp")) + "\n" + line)
    with pytest.raises(MplugError, match=said):
        read_captions(tmp_path, DataConfig())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=r"captions\.jsonl"):
        read_captions(tmp_path, DataConfig())
