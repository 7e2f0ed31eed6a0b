"""The demo's captions and answers against a real gRPC server that says what a test wants, and their sheet."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image, ImageColor
from rich.console import Console

from mplug.train.mini.config import PROMPT_ZH as LEARNT_PROMPT
from mplug_api.v1 import caption_service_pb2, generation_pb2, model_service_pb2, vqa_service_pb2
from mplug_services.cli import contact_sheet
from mplug_services.cli.answers_sheet import CELL, HEADER, draw_answers, row_height, sheet_size
from mplug_services.cli.contact_sheet import GAP, GROUND, MARGIN
from mplug_services.cli.demo_answers import Told, tell
from mplug_services.cli.demo_queries import PICTURES, PROMPT_ZH, QUERIES, DemoPicture
from mplug_services.client import Client, ClientError
from services.client.scripted_server import LIMITS, ScriptedServer, scripted_server

GALLERY = Path(__file__).parents[3] / "examples" / "gallery"
ASKED = (
    DemoPicture("a.png", ("what is this?", "这是什么？")),
    DemoPicture("b.png", ("is this [red] food?",)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("a", "#ff0000"), ("b", "#00ff00")):
        Image.new("RGB", (300, 100), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def written(text: str) -> generation_pb2.GeneratedTexts:
    return generation_pb2.GeneratedTexts(texts=[generation_pb2.GeneratedText(text=text, score=-0.5)])


def caption(request: caption_service_pb2.CaptionRequest, _: object) -> caption_service_pb2.CaptionResponse:
    results = [
        caption_service_pb2.CaptionResult(index=index, captions=written(f"{request.prompt}caption {index}"))
        for index in range(len(request.images))
    ]
    return caption_service_pb2.CaptionResponse(results=results)


def answer(request: vqa_service_pb2.AnswerRequest, _: object) -> vqa_service_pb2.AnswerResponse:
    results = [
        vqa_service_pb2.AnswerResult(index=index, answers=written(f"to {each.question}"))
        for index, each in enumerate(request.questions)
    ]
    return vqa_service_pb2.AnswerResponse(results=results)


def script(server: ScriptedServer) -> None:
    server.on("GetServerInfo", lambda *_: model_service_pb2.GetServerInfoResponse(limits=LIMITS))
    server.on("Caption", caption)
    server.on("Answer", answer)


def test_every_picture_gets_its_own_captions_and_answers(folder: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    with scripted_server() as server, Client(server.address) as client:
        script(server)
        told = tell(client, folder, ASKED, console)
    assert told == [
        Told(
            folder / "a.png",
            "caption 0",
            f"{PROMPT_ZH}caption 0",
            (("what is this?", "to what is this?"), ("这是什么？", "to 这是什么？")),
        ),
        Told(
            folder / "b.png",
            "caption 1",
            f"{PROMPT_ZH}caption 1",
            (("is this [red] food?", "to is this [red] food?"),),
        ),
    ]
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(
        each in text for each in ("caption 1", "图中caption 1", "to 这是什么？", "to is this [red] food?")
    )


def test_a_picture_that_is_refused_ends_the_demo(folder: Path) -> None:
    def refuse(*_: object) -> caption_service_pb2.CaptionResponse:
        error = caption_service_pb2.CaptionResult(index=0)
        error.error.code, error.error.message = 3, "no picture"
        return caption_service_pb2.CaptionResponse(results=[error])

    with scripted_server() as server, Client(server.address) as client:
        script(server)
        server.on("Caption", refuse)
        with pytest.raises(ClientError, match="no picture"):
            tell(client, folder, ASKED[:1], Console(file=io.StringIO()))


def test_the_gallery_has_every_picture_that_the_demo_names() -> None:
    lines = (GALLERY / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    there = {json.loads(line)["image"] for line in lines}
    named = {each.picture for each in (*QUERIES, *PICTURES) if each.picture is not None}
    assert named <= there
    assert len(PICTURES) == len({each.picture for each in PICTURES})


def test_chinese_captions_are_prompted_as_they_were_learnt() -> None:
    assert PROMPT_ZH == LEARNT_PROMPT


def test_searches_by_text_alone_are_reranked() -> None:
    assert [query.reranked > 0 for query in QUERIES] == [True, True, True, True, False, False]


def test_a_sheet_has_a_cell_for_each_picture(folder: Path) -> None:
    told = [Told(folder / f"{name}.png", "a", "图中", (("q?", "yes"),)) for name in "aba"]
    sheet = draw_answers(told, "title", "subtitle")
    assert sheet.size == sheet_size(told)
    for number, colour in enumerate(("#ff0000", "#00ff00", "#ff0000")):
        row, column = divmod(number, 2)
        middle = (MARGIN + column * (CELL + GAP) + 75, HEADER + row * row_height(told) + 75)
        assert sheet.getpixel(middle) == ImageColor.getrgb(colour)


def test_long_texts_stay_in_their_cell(folder: Path) -> None:
    long = "word" * 60
    told = Told(folder / "a.png", long, f"图中{long}", (("why " * 40, long), ("q?", "很" * 90), ("q?", "no")))
    sheet = draw_answers([told], "title", "")
    beyond = sheet.crop((MARGIN + CELL + GAP, HEADER, sheet.width, sheet.height))
    below = sheet.crop((MARGIN, HEADER + row_height([told]), sheet.width, sheet.height))
    ground = ImageColor.getrgb(GROUND)
    assert {colour for part in (beyond, below) for _, colour in part.getcolors() or []} == {ground}


def test_a_sheet_of_nothing_is_still_a_sheet() -> None:
    assert draw_answers([], "title", "subtitle").width > contact_sheet.THUMB
