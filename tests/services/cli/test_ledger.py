"""The results of a killed job: whole lines stay, torn ones go, and every item has one line in the end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mplug_services.cli.common import CliError, UsageError
from mplug_services.cli.ledger import ResultFile

SETTINGS = {"model": "tiny", "prompt": "", "beam_size": 3}
BATCHES = [["a", "ä"], ["b"], ["c", "d\n", "e"]]
ITEMS = [id for batch in BATCHES for id in batch]


def line(id: str) -> dict[str, Any]:
    return {"id": id, "caption": f"a picture of “{id}”"}


def finish(path: Path) -> list[str]:
    """What a second run does; returns the ids that were left for it."""
    with ResultFile(path, SETTINGS) as results:
        left = [id for id in ITEMS if id not in results.done]
        for id in left:
            results.add([line(id)])
    return left


def write(folder: Path, batches: list[list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with ResultFile(folder / "out.jsonl", SETTINGS) as results:
        for batch in batches:
            results.add(line(id) for id in batch)
    return folder / "out.jsonl"


def ids(path: Path) -> list[str]:
    return [json.loads(text)["id"] for text in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_results_are_lines_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    path = write(tmp_path, BATCHES)
    before = path.read_bytes()
    assert ids(path) == ITEMS
    assert finish(path) == []
    assert path.read_bytes() == before


def states(tmp_path: Path) -> list[tuple[bytes, bytes]]:
    """Every state that a kill can leave behind, byte by byte: (results, ledger) in the order of writing."""
    found: list[tuple[bytes, bytes]] = []
    results = ledger = b""
    for count in range(len(BATCHES) + 1):
        path = write(tmp_path / str(count), BATCHES[:count])
        new_results, new_ledger = path.read_bytes(), path.with_name("out.jsonl.ledger").read_bytes()
        if count == 0:
            found.append((b"", new_ledger))
        else:
            # Appends are cut anywhere: first the results grow, then the ledger does.
            found += [(new_results[:end], ledger) for end in range(len(results), len(new_results) + 1)]
            found += [(new_results, new_ledger[:end]) for end in range(len(ledger), len(new_ledger) + 1)]
        results, ledger = new_results, new_ledger
    return found


def test_a_kill_at_any_byte_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # hundreds of runs; what fsync adds no kill can show
    every = states(tmp_path)
    assert len(every) > 300
    folder = tmp_path / "run"
    for results, ledger in every:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = folder / "out.jsonl"
        path.write_bytes(results)
        path.with_name("out.jsonl.ledger").write_bytes(ledger)
        whole = results[: results.rfind(b"\n") + 1]
        left = finish(path)
        assert sorted(ids(path)) == sorted(ITEMS)
        assert path.read_bytes().startswith(whole), "a line that was written whole stays"
        assert len(left) == len(ITEMS) - whole.count(b"\n"), "what is done is not done again"
        assert finish(path) == []


def test_a_ledger_begun_and_not_finished_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.ledger.partial").write_bytes(b'{"ledger": 1, "sett')
    assert finish(tmp_path / "out.jsonl") == ITEMS
    assert ids(tmp_path / "out.jsonl") == ITEMS


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, BATCHES)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"beam_size 3, not 4.*top_k None, not 1"):
        ResultFile(path, {**SETTINGS, "beam_size": 4, "top_k": 1})
    assert path.read_bytes() == before


def test_a_file_of_somebody_else_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("my notes")
    with pytest.raises(UsageError, match="has no ledger"):
        ResultFile(path, SETTINGS)
    assert path.read_text() == "my notes"
    path.with_name("out.jsonl.ledger").write_text("my other notes\n")
    with pytest.raises(UsageError, match="not a ledger"):
        ResultFile(path, SETTINGS)


def test_results_that_were_cut_are_not_taken_for_whole(tmp_path: Path) -> None:
    path = write(tmp_path, BATCHES)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CliError, match="was changed"):
        ResultFile(path, SETTINGS)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="cannot be written: No such file"):
        ResultFile(tmp_path / "gone" / "out.jsonl", SETTINGS)


HOLD = """
import sys
from pathlib import Path
from mplug_services.cli.ledger import ResultFile

with ResultFile(Path(sys.argv[1]), {}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_at_once_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CliError, match="another process writes"):
            ResultFile(path, {})
        other.communicate()
    ResultFile(path, {}).close()


def test_an_item_twice_is_our_own_mistake(tmp_path: Path) -> None:
    with ResultFile(tmp_path / "out.jsonl", SETTINGS) as results:
        results.add([line("a")])
        with pytest.raises(AssertionError):
            results.add([line("a")])
        with pytest.raises(AssertionError):
            results.add([line("b"), line("b")])
