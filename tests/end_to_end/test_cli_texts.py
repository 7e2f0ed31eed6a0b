"""`mplug generate`, `mplug classify` and `mplug fill`, and pipelines of texts: here and by a server, alike."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import mplug
from mplug_services.cli import main
from mplug_services.cli.server_process import ServerProcess
from mplug_services.client import Client, GenerationOptions
from services.text_folders import write_folders

Output = pytest.CaptureFixture[str]
GREEDY = ["--method", "greedy", "--max-length", "8", "--min-length", "8"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return write_folders(tmp_path_factory.mktemp("texts"))


def serve(folders: Mapping[str, Path], data: Path, judge: str = "nli") -> ServerProcess:
    settings = {"text": "gpt3", "classify": judge, "fill-mask": "fill"}
    arguments = [f"--{name}-model={folders[folder]}" for name, folder in settings.items()]
    return ServerProcess(data, ["--services", "text", *arguments])


@pytest.fixture(scope="module")
def address(folders: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(folders, tmp_path_factory.mktemp("data")) as server:
        yield server.address


def output(capsys: Output, arguments: Sequence[str], code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def both(
    capsys: Output, arguments: Sequence[str], folder: Path, address: str, *, code: int = 0
) -> tuple[str, str]:
    """What a command prints, with the model here and by the server."""
    local = output(capsys, [*arguments, "--model", str(folder)], code)
    return local, output(capsys, [*arguments, "--address", address], code)


# Any: JSON.
def rows(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def close_to(found: Any, expected: Any) -> bool:
    """Equal but for rounding. Any: JSON."""
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, abs=1e-4))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close_to(found[key], expected[key]) for key in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close_to, found, expected))
    return bool(found == expected)


def test_a_text_is_written_here_as_by_a_server(
    folders: Mapping[str, Path], address: str, capsys: Output
) -> None:
    local, remote = both(capsys, ["generate", "piece5 piece6", *GREEDY], folders["gpt3"], address)
    assert local == remote
    assert len(local.split()) == 8


def test_several_texts_and_their_log_probabilities(
    folders: Mapping[str, Path], address: str, tmp_path: Path, capsys: Output
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('"piece5"\n\n{"id": "second", "text": "piece6 piece7"}\n')
    arguments = ["generate", "piece9", "--input", str(file), "--log-probs", *GREEDY]
    local, remote = both(capsys, arguments, folders["gpt3"], address)
    assert close_to(rows(local), rows(remote))
    assert [row.get("id") for row in rows(local)] == [None, None, "second"]
    for row in rows(local):
        assert len(row["log_probs"]) == 8
        assert row["finish_reason"] == "length"


def test_stop_texts_and_drawn_texts(folders: Mapping[str, Path], address: str, capsys: Output) -> None:
    whole = output(capsys, ["generate", "piece5", "--address", address, *GREEDY]).split()
    local, remote = both(
        capsys, ["generate", "piece5", "--stop", whole[3], *GREEDY], folders["gpt3"], address
    )
    assert local == remote
    assert local.split() == whole[: whole.index(whole[3])]
    drawn = ["generate", "piece5", "--top-k", "5", "--seed", "7", "--max-length", "6", "--num-results", "2"]
    local, remote = both(capsys, [*drawn, "--json"], folders["gpt3"], address)
    assert close_to(rows(local), rows(remote))
    assert (rows(local)[0]["seed"], len(rows(local)[0]["texts"])) == (7, 2)


def test_one_bad_text_is_named_and_the_others_are_written(address: str, capsys: Output) -> None:
    arguments = ["generate", "piece5", " ", "--json", "--address", address, *GREEDY]
    good, bad = rows(output(capsys, arguments, code=3))
    assert len(good["text"].split()) == 8
    assert "the text is empty" in bad["error"]


def test_a_prompt_by_its_name(address: str, capsys: Output) -> None:
    prompt = mplug_prompt("code", function="piece5", language="C")
    plain = output(capsys, ["generate", prompt, "--address", address, *GREEDY])
    named = ["generate", "piece5", "--template", "code", "--slot", "language=C", "--address", address]
    assert output(capsys, [*named, *GREEDY]) == plain


def test_examples_show_how_it_is_done(folders: Mapping[str, Path], tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text('{"source": "piece5", "target": "piece6"}\n{"source": "piece7", "target": "piece8"}\n')
    shown = [("piece5", "piece6"), ("piece7", "piece8")]
    prompt = mplug.few_shot(shown, "piece9", instruction="piece4")
    here = ["--model", str(folders["gpt3"]), *GREEDY]
    plain = output(capsys, ["generate", prompt, *here])
    given = ["--examples", str(file), "--instruction", "piece4"]
    assert output(capsys, ["generate", "piece9", *given, *here]) == plain
    assert output(capsys, ["generate", "piece9", *here]) != plain


def test_second_lines_have_the_length_of_first_ones(folders: Mapping[str, Path], capsys: Output) -> None:
    command = ["generate", "ab", "abcd", "abcd", "a", "--template", "couplet", "--log-probs"]
    here = ["--model", str(folders["gpt3"]), "--method", "greedy"]
    written = rows(output(capsys, [*command, *here]))
    assert [len(each["log_probs"]) for each in written] == [2, 4, 4, 1]
    written = rows(output(capsys, [*command, *here, "--min-length", "3", "--max-length", "3"]))
    assert [len(each["log_probs"]) for each in written] == [3, 3, 3, 3]


def mplug_prompt(name: str, **slots: str) -> str:
    from mplug.prompts import prompt

    return prompt(name, **slots)


def test_labels_pairs_and_labels_never_seen(
    folders: Mapping[str, Path], address: str, capsys: Output
) -> None:
    for arguments in (
        ["classify", "piece5", "piece6", "--json"],
        ["classify", "piece5", "--pair", "piece7", "--json", "--top", "2"],
        ["classify", "piece5", "--labels", "piece8, piece9", "--template", "piece7 {}", "--json"],
        ["classify", "piece5", "--labels", "piece8,piece9", "--multi-label", "--json"],
    ):
        local, remote = both(capsys, arguments, folders["nli"], address)
        assert close_to(rows(local), rows(remote)), arguments
    assert [each["label"] for each in rows(local)[0]["labels"]] in (
        ["piece8", "piece9"],
        ["piece9", "piece8"],
    )
    assert "maybe" in output(capsys, ["classify", "piece5", "--address", address])


def test_masks(folders: Mapping[str, Path], address: str, capsys: Output) -> None:
    local, remote = both(
        capsys, ["fill", "piece5 [MASK]", "--json", "--top-k", "2"], folders["fill"], address
    )
    assert close_to(rows(local), rows(remote))
    assert len(rows(local)[0]["masks"][0]) == 2
    assert output(capsys, ["fill", "piece5 [MASK]", "--address", address]).startswith("piece5 piece")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_spans_and_known_questions_of_models_made_for_them(
    folders: Mapping[str, Path], tmp_path: Path, capsys: Output
) -> None:
    known = tmp_path / "known.jsonl"
    known.write_text('{"text": "piece5", "label": "a"}\n{"text": "piece9", "label": "b"}\n')
    for name, arguments in (
        ("ner", ["classify", "piece5 piece6", "--json"]),
        ("faq", ["classify", "piece5", "--known", str(known), "--json"]),
    ):
        with serve(folders, tmp_path / name, judge=name) as server:
            local, remote = both(capsys, arguments, folders[name], server.address)
            assert close_to(rows(local), rows(remote)), name


def test_pipelines_answer_alike(folders: Mapping[str, Path], address: str) -> None:
    cases: list[tuple[str, str, Any, dict[str, Any]]] = [
        ("text-generation", "gpt3", "piece5", {"method": "greedy", "max_length": 6, "stop": ["piece9"]}),
        ("nli", "nli", ("piece5", "piece6"), {}),
        ("zero-shot-classification", "nli", "piece5", {"candidate_labels": ["piece7", "piece8"]}),
        ("fill-mask", "fill", "piece5 [MASK]", {}),
    ]
    for task, folder, input, settings in cases:
        with mplug.pipeline(task, model=str(folders[folder])) as local:
            expected = local(input, **settings)
        with mplug.pipeline(task, model=address) as remote:
            assert close_to(remote(input, **settings), expected), task
            assert remote.runner.model_name


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_signal_lets_a_stream_end(folders: Mapping[str, Path], tmp_path: Path) -> None:
    with serve(folders, tmp_path) as server, Client(server.address) as client:
        options = GenerationOptions(method="greedy", min_length=400, max_length=400)
        stream = client.stream_generate("piece5", options=options)
        first = next(stream)
        assert not first.finished
        stopping = threading.Thread(target=server.stop)  # SIGTERM, and waits
        stopping.start()
        *_, last = stream
        assert last.finished
        assert len(last.texts[0].token_ids) == 402
        stopping.join()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "give a TEXT"),
        (["generate", "a", "--input", "gone.jsonl"], "gone.jsonl cannot be read"),
        (["generate", "a", "--slot", "title=x"], "name it with --template"),
        (["generate", "a", "--instruction", "x"], "give --examples FILE"),
        (["generate", "a", "--examples", "EMPTY"], "holds no examples"),
        (["generate", "a", "--examples", "TEXTS"], 'no object with "source" and "target"'),
        (["generate", "--template", "poem"], "a poem begins with something"),
        (["generate", "a", "--template", "poem", "--slot", "moon"], "takes NAME=VALUE"),
        (["generate", "a", "--template", "poem", "--slot", "moon=x"], "does not know moon"),
        (["generate", "a", "--template", "qa", "--slot", "context=x", "--slot", "context=y"], "takes one"),
        (["generate", "a", "--beam-size", "2", "--top-k", "3"], "several methods"),
        (["generate", "a", "--model", "localhost:50051"], "an address is given with --address"),
        (["generate", "a", "--model", "x", "--served-model", "y"], "give one of both"),
        (["classify"], "give a TEXT"),
        (["classify", "a", "--labels", "b", "--known", "KNOWN"], "give one of both"),
        (["classify", "a", "--known", "EMPTY"], "holds no questions"),
        (["classify", "a", "--known", "TEXTS"], 'no object with "text" and "label"'),
        (["classify", "a", "--top", "0"], "--top"),
        (["fill", "a", "--top-k", "0"], "--top-k"),
        (["fill"], "give a TEXT"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], message: str, tmp_path: Path, capsys: Output) -> None:
    files = {"KNOWN": '{"text": "a", "label": "b"}\n', "EMPTY": "\n", "TEXTS": '"a"\n'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    arguments = [str(tmp_path / each) if each in files else each for each in arguments]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
