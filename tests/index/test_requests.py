from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from index.index_samples import vector
from mplug_index import Database, Filter, Point, RequestWindow, UpsertOutcome, answers
from mplug_index.errors import DimensionMismatchError, InvalidIdError

GOOD = vector(1, 2)


def plain(outcomes: list[UpsertOutcome]) -> list[tuple[str, int, str, str, str]]:
    """Outcomes as values that compare: exceptions do not."""
    return [
        (
            each.id,
            each.sequence_number,
            type(each.error).__name__,
            str(each.error),
            getattr(each.error, "field", ""),
        )
        for each in outcomes
    ]


def test_a_repeated_upsert_changes_nothing_and_is_answered_as_before(tmp_path: Path) -> None:
    batch = [
        Point("a", GOOD, {"n": 1.0}),
        Point("bad", vector(1, 2, 3)),
        Point("\ud800", GOOD),
        Point("b", GOOD),
    ]
    with Database(tmp_path) as database:
        database.create_collection("c", 2)
        first = database.upsert("c", batch, request_id="r1")
        database.upsert("c", [Point("a", GOOD, {"n": 2.0})])
        database.delete("c", ids=["b"])
        assert plain(database.upsert("c", batch, request_id="r1")) == plain(first)
        assert plain(database.upsert("c", [Point("other", GOOD)], request_id="r1")) == plain(first)
    with Database(tmp_path) as database:
        again = database.upsert("c", batch, request_id="r1")
        assert plain(again) == plain(first)
        assert isinstance(again[1].error, DimensionMismatchError)
        assert [point.id for point in database.scroll("c")[0]] == ["a"]
        assert database.get("c", ["a"])[0][0].payload == {"n": 2.0}


def test_a_repeated_delete_changes_nothing_and_is_answered_as_before(tmp_path: Path) -> None:
    with Database(tmp_path) as database:
        database.create_collection("c", 2)
        database.upsert("c", [Point("a", GOOD), Point("b", GOOD)])
        assert database.delete("c", ids=["a"], request_id="r") == 1
        assert database.delete("c", ids=["none"], request_id="r0") == 0
        database.upsert("c", [Point("a", GOOD), Point("none", GOOD)])
    with Database(tmp_path) as database:
        assert database.delete("c", ids=["a"], request_id="r") == 1
        assert database.delete("c", filter=Filter(), request_id="r0") == 0
        assert database.count("c") == 3


def test_request_ids_are_apart_by_operation_and_collection(database: Database) -> None:
    for name in ("c", "d"):
        database.create_collection(name, 2)
        assert database.upsert(name, [Point(name, GOOD)], request_id="r")[0].id == name
        assert database.delete(name, ids=[name], request_id="r") == 1
    database.set_alias("alias", "c")
    assert database.upsert("alias", [Point("x", GOOD)], request_id="r")[0].id == "c"


def test_an_empty_batch_has_an_answer_too(database: Database) -> None:
    database.create_collection("c", 2)
    assert database.upsert("c", [], request_id="r") == []
    assert database.upsert("c", [Point("a", GOOD)], request_id="r") == []


def test_only_the_latest_requests_are_remembered(tmp_path: Path) -> None:
    with Database(tmp_path, request_window=RequestWindow(max_count=3)) as database:
        database.create_collection("c", 2)
        first = [database.upsert("c", [Point("a", GOOD)], request_id=f"r{number}")[0] for number in range(5)]
        for number in (2, 3, 4):
            assert database.upsert("c", [Point("a", GOOD)], request_id=f"r{number}")[0] == first[number]
        assert database.upsert("c", [Point("a", GOOD)], request_id="r0")[0] != first[0]


def test_requests_are_forgotten_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000_000]
    monkeypatch.setattr(answers, "_now", lambda: now[0])
    window = RequestWindow(max_age=timedelta(seconds=10))
    with Database(tmp_path, request_window=window) as database:
        database.create_collection("c", 2)
        first = database.upsert("c", [Point("a", GOOD)], request_id="r")
        now[0] += 9_999_999
        assert database.upsert("c", [Point("a", GOOD)], request_id="r") == first
        now[0] += 2
        second = database.upsert("c", [Point("a", GOOD)], request_id="r")
        assert second != first
        assert database.upsert("c", [Point("a", GOOD)], request_id="r") == second
        now[0] += 20_000_000
        database.upsert("c", [Point("a", GOOD)], request_id="new")
        with database._readers.snapshot() as connection:
            assert connection.execute("SELECT request_id FROM answers").fetchall() == [("new",)]


def test_the_same_request_from_many_threads_happens_once(database: Database) -> None:
    database.create_collection("c", 2)
    start = threading.Barrier(8)
    answered: list[int] = []

    def upsert() -> None:
        start.wait()
        answered.append(database.upsert("c", [Point("a", GOOD)], request_id="r")[0].sequence_number)

    threads = [threading.Thread(target=upsert) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answered == [answered[0]] * 8
    assert database.upsert("c", [Point("b", GOOD)])[0].sequence_number == answered[0] + 1


@pytest.mark.parametrize("request_id", ["x" * 129, "\ud800"])
def test_a_bad_request_id_is_refused(database: Database, request_id: str) -> None:
    database.create_collection("c", 2)
    with pytest.raises(InvalidIdError) as raised:
        database.upsert("c", [Point("a", GOOD)], request_id=request_id)
    assert raised.value.field == "request_id"
    with pytest.raises(InvalidIdError):
        database.delete("c", ids=["a"], request_id=request_id)


@pytest.mark.parametrize("arguments", [{"max_count": 0}, {"max_age": timedelta(0)}])
def test_a_window_that_holds_nothing_is_refused(arguments: dict[str, int | timedelta]) -> None:
    with pytest.raises(ValueError, match="request window"):
        RequestWindow(**arguments)  # type: ignore[arg-type]  # one argument of its type
