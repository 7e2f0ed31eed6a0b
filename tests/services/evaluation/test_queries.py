import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mplug_services.evaluation.queries import JudgedQuery, QueryFileError, read_queries

GOOD = '{"text": "a dog", "relevant": ["d1"]}'


def write(folder: Path, *lines: str) -> Path:
    file = folder / "queries.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_texts_pictures_and_grades_are_read(tmp_path: Path) -> None:
    (tmp_path / "dog.png").write_bytes(b"")
    file = write(
        tmp_path,
        '{"text": "a dog", "relevant": ["d1", "d2", "d1"], "kind": "left aside"}',
        "",
        '{"text": "一只狗\u2028", "relevant": {"d1": 3, "d2": 0.5, "c1": 0}, "image": null}',
        '{"image": "dog.png", "relevant": ["d1"]}',
        "",
    )
    assert read_queries(file) == [
        JudgedQuery({"d1": 1.0, "d2": 1.0}, text="a dog"),
        JudgedQuery({"d1": 3.0, "d2": 0.5}, text="一只狗\u2028"),
        JudgedQuery({"d1": 1.0}, image=tmp_path / "dog.png"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a dog", "not JSON"),
        ('["a dog"]', "an object is wanted"),
        ('{"relevant": ["d1"]}', 'give "text" or "image"'),
        ('{"text": "a", "image": "b.png", "relevant": ["d1"]}', 'give "text" or "image"'),
        ('{"text": " ", "relevant": ["d1"]}', '"text" is no text'),
        ('{"text": 7, "relevant": ["d1"]}', '"text" is no text'),
        ('{"image": 7, "relevant": ["d1"]}', '"image" is no path'),
        ('{"image": "gone.png", "relevant": ["d1"]}', "gone.png is not a file"),
        ('{"text": "a"}', '"relevant" is neither'),
        ('{"text": "a", "relevant": "d1"}', '"relevant" is neither'),
        ('{"text": "a", "relevant": []}', "no picture of a grade above 0"),
        ('{"text": "a", "relevant": {"d1": 0}}', "no picture of a grade above 0"),
        ('{"text": "a", "relevant": ["d1", 2]}', "no id: 2"),
        ('{"text": "a", "relevant": {"": 1}}', "an empty id"),
        ('{"text": "a", "relevant": {"d1": -1}}', 'the grade of "d1" is below 0'),
        ('{"text": "a", "relevant": {"d1": "3"}}', 'the grade of "d1" is no number'),
        ('{"text": "a", "relevant": {"d1": true}}', 'the grade of "d1" is no number'),
        ('{"text": "a", "relevant": {"d1": NaN}}', 'the grade of "d1" is no number'),
        ('{"text": "a", "relevant": {"d1": Infinity}}', 'the grade of "d1" is no number'),
        ('{"text": "a", "relevant": {"d1": 1' + "0" * 400 + "}}", 'the grade of "d1" is no number'),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(QueryFileError) as raised:
        read_queries(write(tmp_path, GOOD, "", line, GOOD))
    assert "line 3: " in str(raised.value)
    assert reason in str(raised.value)


def test_all_lines_are_named_but_not_without_end(tmp_path: Path) -> None:
    with pytest.raises(QueryFileError) as raised:
        read_queries(write(tmp_path, *["{}"] * 30))
    lines = str(raised.value).splitlines()
    assert lines[1].startswith("  line 1: ")
    assert lines[20].startswith("  line 20: ")
    assert lines[21:] == ["  … and 10 more lines"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_a_query_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_bytes(content)
    with pytest.raises(QueryFileError, match="holds no query"):
        read_queries(file)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "queries.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(QueryFileError, match="cannot be read as UTF-8"):
        read_queries(file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries({}, optional={"text": JSON, "image": JSON, "relevant": JSON})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=FIELDS | JSON)
def test_whatever_a_line_says_it_is_a_query_or_refused(tmp_path: Path, fields: object) -> None:
    file = write(tmp_path, json.dumps(fields))
    try:
        (query,) = read_queries(file)
    except QueryFileError as error:
        assert "line 1: " in str(error)
    else:
        assert (query.text is None) != (query.image is None)
        assert query.grades
        assert all(grade > 0 for grade in query.grades.values())
