import json
from pathlib import Path

import pytest

from mplug.errors import MplugError
from mplug.train.config import DataConfig
from mplug.train.data import Split, read_captions
from mplug.train.vqa_data import VqaRow, read_questions


def write(folder: Path, name: str, *records: dict[str, object]) -> None:
    (folder / name).write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")


def question(image: str, **more: object) -> dict[str, object]:
    return {"image": image, "question": "what is it?", "answers": ["a dog"], **more}


def test_a_row_is_what_its_line_says(tmp_path: Path) -> None:
    write(tmp_path, "vqa.jsonl", question("images/photo/1.webp", type="animal", lang="zh", split="val"))
    assert read_questions(tmp_path, DataConfig()) == [
        VqaRow("images/photo/1.webp", "what is it?", ("a dog",), "animal", "zh", Split.VAL)
    ]


def test_a_picture_is_in_one_split_for_captions_and_questions(tmp_path: Path) -> None:
    photos: list[dict[str, object]] = [
        {"image": f"images/photo/{n}.webp", "split": "val" if n < 3 else "train"} for n in range(30)
    ]
    drawings: list[dict[str, object]] = [{"image": f"images/emoji/noto/{n}.webp"} for n in range(60)]
    write(tmp_path, "captions.jsonl", *({**each, "captions": ["a"]} for each in [*photos, *drawings]))
    # Only some are asked about, several times each, and the published split is not repeated.
    asked = [question(str(each["image"])) for each in [*photos[::2], *photos[::4], *drawings]]
    write(tmp_path, "vqa.jsonl", *asked)
    config = DataConfig(num_dev_images=9)
    captioned = {image.path: image.split for image in read_captions(tmp_path, config)}
    rows = read_questions(tmp_path, config)
    assert len(rows) == len(asked)
    assert {row.path: row.split for row in rows} == {row.path: captioned[row.path] for row in rows}
    assert {row.split for row in rows} == {Split.TRAIN, Split.DEV, Split.VAL, Split.HELD_OUT}


def test_questions_without_captions_hold_out_by_name(tmp_path: Path) -> None:
    write(tmp_path, "vqa.jsonl", *(question(f"images/shape/{n}.png") for n in range(400)))
    held = sum(row.split == Split.HELD_OUT for row in read_questions(tmp_path, DataConfig()))
    assert 20 < held < 65


@pytest.mark.parametrize("answers", ["a dog", [], [3]])
def test_answers_that_are_no_list_of_texts_are_named(tmp_path: Path, answers: object) -> None:
    write(tmp_path, "vqa.jsonl", question("images/a/1.png"), question("images/a/2.png", answers=answers))
    with pytest.raises(MplugError, match=r"vqa\.jsonl, line 2: answers is"):
        read_questions(tmp_path, DataConfig())


def test_a_missing_file_or_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=r"No vqa\.jsonl"):
        read_questions(tmp_path, DataConfig())
    write(tmp_path, "vqa.jsonl", {"image": "images/a/1.png", "answers": ["x"]})
    with pytest.raises(MplugError, match=r"line 1: .*question"):
        read_questions(tmp_path, DataConfig())
