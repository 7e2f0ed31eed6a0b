"""The commands against a real server."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mplug_services.cli import main
from mplug_services.client import Client
from services.cli.live_server import live_server, write_pictures

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def server_address(folder: Path) -> Iterator[str]:
    with live_server(folder) as server:
        yield server.address


@pytest.fixture
def address(server_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MPLUG_ADDRESS", server_address)
    monkeypatch.setenv("COLUMNS", "160")
    return server_address


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Path:
    write_pictures(folder / "pictures" / "sub", 4)
    return folder / "pictures"


@pytest.fixture
def pets(address: str, pictures: Path, capsys: Output) -> str:
    assert main(["ingest", str(pictures), "--collection", "pets"]) == 0
    capsys.readouterr()
    return "pets"


def test_ingest_goes_through_a_folder_and_a_second_run_finds_it_all_there(
    address: str, pictures: Path, capsys: Output
) -> None:
    assert main(["ingest", str(pictures), "--collection", "twice"]) == 0
    assert "4 pictures found, 4 added, 0 were there already, 0 refused" in capsys.readouterr().out
    assert main(["ingest", str(pictures), "--collection", "twice"]) == 0
    assert "4 pictures found, 0 added, 4 were there already, 0 refused" in capsys.readouterr().out
    assert main(["ingest", str(pictures), "--collection", "twice", "--replace"]) == 0
    assert "4 pictures found, 4 added, 0 were there already" in capsys.readouterr().out
    with Client(address) as client:
        assert sorted(point.id for point in client.scroll("twice")) == [
            "sub/blue.png",
            "sub/green.png",
            "sub/grey.png",
            "sub/red.png",
        ]


def test_one_broken_file_among_many_is_reported_and_the_others_go_in(
    address: str, tmp_path: Path, capsys: Output
) -> None:
    write_pictures(tmp_path, 60)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("left aside")
    assert main(["ingest", str(tmp_path), "--collection", "broken"]) == 3
    output = capsys.readouterr()
    assert "62 pictures found, 60 added, 0 were there already, 2 refused" in output.out
    assert "refused broken.jpg: " in output.err
    assert "refused empty.png: " in output.err
    with Client(address) as client:
        assert client.count("broken") == 60


def test_ingest_says_in_json_what_it_refused(address: str, tmp_path: Path, capsys: Output) -> None:
    write_pictures(tmp_path, 2)
    lines = [
        {"image": "red.png", "label": "a red picture", "count": 1},
        {"image": "green.png", "label": "a green picture", "count": 2, "taken": "2024-05-01"},
        {"image": "gone.png"},
        "nonsense",
    ]
    file = tmp_path / "list.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    command = ["ingest", str(file), "--collection", "lines", "--time-field", "taken", "--json"]
    assert main(command) == 3
    summary = json.loads(capsys.readouterr().out)
    assert (summary["found"], summary["added"], summary["present"]) == (4, 2, 0)
    assert [refusal["id"] for refusal in summary["refused"]] == ["list.jsonl:4", "gone.png"]
    assert main(["search", "a", "--collection", "lines", "--filter", "taken>2024-01-01", "--json"]) == 0
    assert [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]] == ["green.png"]


def test_search_prints_a_ranked_table(pets: str, capsys: Output) -> None:
    assert main(["search", "a red picture", "--collection", pets, "-k", "3"]) == 0
    text = capsys.readouterr().out
    assert "score" in text
    assert text.count("sub/") == 3
    assert "3 hits in" in text


def test_search_by_picture_finds_the_picture_itself(pets: str, pictures: Path, capsys: Output) -> None:
    blue = pictures / "sub" / "blue.png"
    assert main(["search", "--image", str(blue), "--collection", pets, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["hits"][0]["id"] == "sub/blue.png"
    assert result["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert result["model"]["name"] == "tiny"
    assert set(result["timings"]) == {"prepare", "queue", "forward", "index", "total"}


def test_search_by_like_leaves_the_picture_itself_out(pets: str, capsys: Output) -> None:
    command = ["search", "--like", "sub/red.png", "--unlike", "sub/grey.png", "--collection", pets, "--json"]
    assert main([*command, "--weight", "1", "--weight=-0.2"]) == 0
    ids = {hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]}
    assert ids == {"sub/blue.png", "sub/green.png"}


def test_a_text_that_is_too_long_is_said_to_be(pets: str, capsys: Output) -> None:
    assert main(["search", "a dog " * 500, "--collection", pets]) == 0
    assert "longer than the model reads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "a", "--collection", "nothing"], "nothing"),
        (["search", "", "--collection", "pets"], "empty"),
        (["search", "--like", "gone.png", "--collection", "pets"], "gone.png"),
        (["ingest", "{pictures}", "--collection", "no/name"], "no/name"),
    ],
)
def test_what_the_server_refuses_is_a_failure_with_its_reason(
    pets: str, pictures: Path, arguments: list[str], message: str, capsys: Output
) -> None:
    assert main([argument.format(pictures=pictures) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_info_shows_model_licence_limits_and_collections(pets: str, capsys: Output) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "for tests only" in text
    assert "max batch size" in text
    assert pets in text
    # In a narrow terminal the words lie on several lines.
    assert "plain torch: compiled for CUDA, not for cpu" in " ".join(text.split())
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [kernel["name"] for kernel in facts["attention kernels"]] == ["kv", "absorbed_two", "absorbed_one"]
    assert not any(kernel["compiled"] for kernel in facts["attention kernels"])
    assert facts["models"][0]["embedding width"] == 16
    assert "pets" in [collection["name"] for collection in facts["collections"]]


def test_info_of_a_folder_needs_no_server(folder: Path, address: str, capsys: Output) -> None:
    assert main(["info", str(folder / "tiny"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["licence"] == "for tests only"
    assert facts["embedding width"] == 16
    assert facts["attention kernels"].startswith("kv")
    assert main(["info", str(folder / "tiny")]) == 0
    assert "parameters" in capsys.readouterr().out


def test_embed_writes_lines_and_arrays(address: str, pictures: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["embed", "--text", "a cat", "a dog"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == ["a cat", "a dog"]
    assert np.linalg.norm(lines[0]["vector"]) == pytest.approx(1, abs=1e-5)

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"?")
    output = tmp_path / "vectors.npy"
    command = ["embed", "--image", str(pictures / "sub" / "red.png"), str(broken), "--output", str(output)]
    assert main(command) == 3
    vectors = np.load(output)
    assert vectors.shape == (2, 16)
    assert vectors.dtype == np.float32
    assert np.isnan(vectors[1]).all()
    assert "broken.png" in capsys.readouterr().err


def test_embed_reads_texts_from_a_file(address: str, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\n猫\n", encoding="utf-8")
    output = tmp_path / "vectors.jsonl"
    assert main(["embed", "--text-file", str(texts), "--output", str(output)]) == 0
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line["input"] for line in lines] == ["a cat", "猫"]


@pytest.mark.parametrize("wrong", [["--model", "nowhere"], ["--port", "99999"], ["--keep-images", "some"]])
def test_a_server_that_cannot_start_says_why_without_a_traceback(tmp_path: Path, wrong: list[str]) -> None:
    command = [sys.executable, "-m", "mplug_services.cli", "serve", "--data-dir", str(tmp_path), *wrong]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode in (1, 2)
    assert wrong[1] in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_data_folder_in_use_is_refused(folder: Path, address: str) -> None:
    command = [sys.executable, "-m", "mplug_services.cli", "serve", "--data-dir", str(folder / "data")]
    command += ["--model", str(folder / "tiny"), "--port", "0"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert "in use" in answer.stderr or "another process" in answer.stderr


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_ingest_that_is_killed_is_finished_by_a_second_run(tmp_path: Path, capsys: Output) -> None:
    pictures = tmp_path / "pictures"
    for number in range(300):
        path = pictures / f"p{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (300, 300, 3), np.uint8)).save(path)
    with live_server(tmp_path) as server, Client(server.address) as client:
        arguments = ["ingest", str(pictures), "--collection", "many", "--address", server.address]
        running = subprocess.Popen(
            [sys.executable, "-m", "mplug_services.cli", *arguments], stderr=subprocess.DEVNULL
        )
        while not client.list_collections() or client.count("many") < 20:
            assert running.poll() is None, "the ingest was done before it could be killed"
        running.send_signal(signal.SIGKILL)
        running.wait()
        left = client.count("many")
        assert main(arguments) == 0
        assert client.count("many") == 300
    assert 20 <= left < 300
    summary = capsys.readouterr().out
    assert "300 pictures found" in summary
    assert "0 refused" in summary
