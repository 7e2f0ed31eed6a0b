"""A client's rows: what is wrong with them, and how they are written down."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug.train.readers import open_source
from mplug_services.errors import ServiceError
from mplug_services.jobs.rows import SentRow, faults
from mplug_services.jobs.upload import MAX_NAMED_FAULTS, ROWS_FILE, Upload
from services.serving import picture

CAPTIONED = SentRow(captions=("a cat",))
PNG = picture(1)


def add(upload: Upload, *rows: tuple[SentRow, bytes]) -> None:
    upload.add([(row, image, list(faults(row, "caption"))) for row, image in rows])


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    return Upload(tmp_path, 10_000)


@pytest.mark.parametrize(
    ("row", "task", "field", "said"),
    [
        (SentRow(), "caption", "captions", "missing or empty"),
        (SentRow(captions=(" ",)), "caption", "captions", "missing or empty"),
        (SentRow(answers=("a",)), "vqa", "question", "missing or empty"),
        (SentRow(question="q", answers=()), "vqa", "answers", "missing or empty"),
        (
            SentRow(question="q", answers=("a", "b"), weights=(1.0, None)),
            "vqa",
            "answers",
            "1 weights for 2",
        ),
        (SentRow(question="q", answers=("a",), weights=(0.0,)), "vqa", "answers[0].weight", "above 0"),
        (SentRow(question="q", answers=("a",), weights=(math.nan,)), "vqa", "answers[0].weight", "above 0"),
        *(
            (SentRow(name=name, captions=("a",)), "caption", "name", said)
            for name, said in [
                ("/etc/passwd", "no relative path"),
                ("../a.png", "no relative path"),
                ("a/../../b.png", "no relative path"),
                ("a//b.png", "no relative path"),
                ("a/", "no relative path"),
                (".rows.jsonl", "no relative path"),
                ("a/.hidden", "no relative path"),
                ("a\0b", "no relative path"),
                ("x" * 600, "the limit is 512"),
                ("x" * 300, "longer than 200"),
            ]
        ),
    ],
)
def test_what_is_wrong_is_named(row: SentRow, task: str, field: str, said: str) -> None:
    found = dict(faults(row, task))
    assert list(found) == [field]
    assert said in found[field]


def test_what_is_right_is_not() -> None:
    assert list(faults(SentRow(name="set/a.png", captions=("a",)), "caption")) == []
    assert list(faults(SentRow(captions_zh=("猫",)), "caption")) == []
    assert list(faults(SentRow(question="q", answers=("a", "b"), weights=(0.5, 1.0)), "vqa")) == []


TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(
    st.lists(
        st.builds(
            SentRow,
            captions=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
            split=st.sampled_from(["", "train", "dev"]),
            identity=st.sampled_from(["", "one"]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_trainer_reads_what_was_sent(
    tmp_path_factory: pytest.TempPathFactory, rows: list[SentRow]
) -> None:
    upload = Upload(tmp_path_factory.mktemp("rows"), 10**9)
    add(upload, *((row, PNG) for row in rows))
    upload.close()
    read = list(open_source(upload.folder / ROWS_FILE, task="caption"))
    assert [each.captions for each in read] == [tuple(text.strip() for text in row.captions) for row in rows]
    assert [each.split for each in read] == [row.split for row in rows]
    for number, (each, row) in enumerate(zip(read, rows, strict=True)):
        assert each.image_name == f"{number:08d}.png"
        assert each.identity == (row.identity or each.image_name)
        assert each.image is not None
        assert each.image.read() == PNG


def test_answers_keep_their_weights(tmp_path: Path) -> None:
    upload = Upload(tmp_path, 10_000)
    row = SentRow(name="set/a.png", question="q?", answers=("yes", "no"), weights=(0.7, 0.3), type="yes/no")
    upload.add([(row, PNG, [])])
    upload.close()
    (example,) = open_source(upload.folder / ROWS_FILE, task="vqa")
    assert [(answer.text, answer.weight) for answer in example.answers] == [("yes", 0.7), ("no", 0.3)]
    assert (example.image_name, example.set_name, example.kind) == ("set/a.png", "set", "yes/no")


def test_rows_of_one_name_are_of_one_picture(upload: Upload) -> None:
    row = SentRow(name="a.png", captions=("a",))
    add(upload, (row, PNG), (row, PNG))
    assert not upload.faults
    add(upload, (row, picture(2)))
    assert list(upload.faults) == ["rows[2].name"]


@pytest.mark.parametrize("names", [("a", "a/b.png"), ("a/b.png", "a")])
def test_a_file_is_no_folder(upload: Upload, names: tuple[str, str]) -> None:
    add(upload, *((SentRow(name=name, captions=("a",)), PNG) for name in names))
    assert list(upload.faults) == ["rows[1].name"]


def test_all_faults_are_told_together(upload: Upload) -> None:
    add(upload, (CAPTIONED, PNG), (SentRow(), PNG), (CAPTIONED, PNG), (SentRow(), PNG))
    with pytest.raises(ServiceError) as refused:
        upload.close()
    failure = refused.value.failure
    assert failure.violations is not None
    assert list(failure.violations) == ["rows[1].captions", "rows[3].captions"]
    assert "rows[1].captions: missing" in failure.message
    assert "(and 1 more)" in failure.message


def test_a_client_that_sends_nothing_good_is_not_read_to_its_end(upload: Upload) -> None:
    with pytest.raises(ServiceError):
        add(upload, *[(SentRow(), PNG)] * (MAX_NAMED_FAULTS + 1))


def test_too_much_is_refused_where_it_is_too_much(tmp_path: Path) -> None:
    upload = Upload(tmp_path, 3 * len(PNG))
    rows: list[Any] = [(CAPTIONED, PNG)] * 5
    with pytest.raises(ServiceError, match=r"rows\[2\]: the limit is") as refused:
        add(upload, *rows)
    assert refused.value.failure.reason == "DATA_TOO_LARGE"


def test_no_rows_are_refused(upload: Upload) -> None:
    with pytest.raises(ServiceError) as refused:
        upload.close()
    assert refused.value.failure.reason == "NO_ROWS"
