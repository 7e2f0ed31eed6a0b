"""Sheets of heat maps beside the ledger of `mplug caption`, and the names of files."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mplug_api.v1 import caption_service_pb2, explanation_pb2, generation_pb2, model_service_pb2
from mplug_services.cli import main
from mplug_services.cli.explanations import file_name
from mplug_services.cli.heat_sheet import TILE
from services.client.scripted_server import LIMITS, ScriptedServer, scripted_server
from services.serving import picture

Output = pytest.CaptureFixture[str]


class Captioner:
    """Says a text of two words with a red and a blue map; pictures after the first are for a better time."""

    def __init__(self, server: ScriptedServer) -> None:
        self.requests: list[caption_service_pb2.CaptionRequest] = []
        self.busy = True
        server.on("Caption", self.caption)

    def caption(self, request: caption_service_pb2.CaptionRequest, context: object) -> object:
        self.requests.append(request)
        results = [self.result(index) for index in range(len(request.images))]
        return caption_service_pb2.CaptionResponse(results=results)

    def result(self, index: int) -> caption_service_pb2.CaptionResult:
        if index and self.busy:
            return caption_service_pb2.CaptionResult(index=index, error=Status(code=8, message="busy"))
        text = generation_pb2.GeneratedText(text="red blue", score=-0.5, token_ids=[101, 7, 8, 102])
        maps = [heat_map("red", 1, (255, 0, 0)), heat_map("blue", 2, (0, 0, 255))]
        captions = generation_pb2.GeneratedTexts(texts=[text])
        return caption_service_pb2.CaptionResult(index=index, captions=captions, heat_maps=maps)


def heat_map(word: str, place: int, colour: tuple[int, int, int]) -> explanation_pb2.HeatMap:
    stream = io.BytesIO()
    Image.new("RGB", (48, 48), colour).save(stream, "JPEG", quality=95)
    return explanation_pb2.HeatMap(
        word=word, tokens=[place], height=1, width=2, values=[0, 1], overlay=stream.getvalue()
    )


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Captioner]:
    with scripted_server() as script:
        monkeypatch.setenv("MPLUG_ADDRESS", script.address)
        limits = model_service_pb2.Limits(max_explained_items=4)
        limits.MergeFrom(LIMITS)
        models = [model_service_pb2.ServedModel(name="tiny-captioner", task="caption")]
        info = model_service_pb2.GetServerInfoResponse(limits=limits, models=models)
        script.on("GetServerInfo", lambda request, context: info)
        yield Captioner(script)


def write_files(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / f"{name}.png").write_bytes(picture(number))
    return folder


def test_a_second_run_draws_what_is_missing(captioner: Captioner, tmp_path: Path, capsys: Output) -> None:
    folder, output, drawn = (
        write_files(tmp_path / "in", "one", "two"),
        tmp_path / "out.jsonl",
        tmp_path / "sheets",
    )
    command = ["caption", str(folder), "--output", str(output), "--explain", str(drawn)]
    assert main(command) == 1
    assert [path.name for path in drawn.iterdir()] == ["one.png.png"]
    first = (drawn / "one.png.png").stat()
    captioner.busy = False
    assert main([*command, "--explain-layer", "1"]) == 2
    assert "begun with other settings (explain_layer None, not 1)" in capsys.readouterr().err
    assert main(command) == 0
    assert sorted(path.name for path in drawn.iterdir()) == ["one.png.png", "two.png.png"]
    assert (drawn / "one.png.png").stat().st_mtime_ns == first.st_mtime_ns, "what is done is not done again"
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert {line["id"]: line["explanation"] for line in lines} == {
        f"{name}.png": str(drawn / f"{name}.png.png") for name in ("one", "two")
    }
    assert [request.HasField("explain") for request in captioner.requests] == [True] * 2


def test_a_sheet_that_cannot_be_written_leaves_no_line(
    captioner: Captioner, tmp_path: Path, capsys: Output
) -> None:
    folder, output = write_files(tmp_path / "in", "one"), tmp_path / "out.jsonl"
    (tmp_path / "taken").write_text("a file")
    command = ["caption", str(folder), "--output", str(output), "--explain", str(tmp_path / "taken")]
    assert main(command) == 1
    assert "taken" in capsys.readouterr().err
    assert output.read_text() == ""
    (tmp_path / "taken").unlink()
    assert main(command) == 0
    assert "1 captioned, 0 were done already" in capsys.readouterr().err


def test_a_sheet_shows_the_picture_and_a_tile_for_each_word(captioner: Captioner, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", "one")
    assert main(["caption", str(folder), "--explain", str(tmp_path / "sheets")]) == 0
    sheet = Image.open(io.BytesIO((tmp_path / "sheets" / "one.png.png").read_bytes())).convert("RGB")
    colours = sheet.getcolors(maxcolors=1 << 24) or []

    def area(near: tuple[int, int, int]) -> int:
        return sum(
            count
            for count, colour in colours
            if isinstance(colour, tuple) and max(abs(a - b) for a, b in zip(colour, near, strict=True)) < 8
        )

    for colour in ((255, 0, 0), (0, 0, 255)):
        assert area(colour) == pytest.approx(48 * 48, rel=0.3)
    assert sheet.width > 3 * TILE


def test_names_are_kept_where_they_can_be() -> None:
    assert file_name("one.jpg", ".png") == "one.jpg.png"
    assert file_name("猫.jpg", ".png") == "猫.jpg.png"
    assert file_name("../a b.jpg", ".png").startswith("_a_b.jpg-")


@given(st.text(), st.text())
def test_every_id_has_a_name_of_its_own_in_the_folder(first: str, second: str) -> None:
    names = [file_name(id, ".png") for id in (first, second)]
    assert (names[0] == names[1]) == (first == second)
    for name in names:
        assert Path(name).name == name
        assert not name.startswith(".") or name == ".png"
        assert len(name.encode()) < 240
