"""`mplug caption`, `mplug ask` and `mplug search --rerank` against a real gRPC server that says what a test wants."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.rpc.status_pb2 import Status

from mplug_api.v1 import (
    caption_service_pb2,
    common_pb2,
    generation_pb2,
    model_service_pb2,
    search_service_pb2,
    vqa_service_pb2,
)
from mplug_services.cli import main
from services.client.scripted_server import LIMITS, ScriptedServer, abort, scripted_server

Output = pytest.CaptureFixture[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as script:
        monkeypatch.setenv("MPLUG_ADDRESS", script.address)
        models = [model_service_pb2.ServedModel(name="tiny-captioner", task="caption")]
        info = model_service_pb2.GetServerInfoResponse(limits=LIMITS, models=models)
        script.on("GetServerInfo", lambda request, context: info)
        yield script


def texts(*words: str) -> generation_pb2.GeneratedTexts:
    each = [generation_pb2.GeneratedText(text=word, score=-0.5, token_ids=[101, 7, 102]) for word in words]
    return generation_pb2.GeneratedTexts(texts=each)


class Captioner:
    """Captions a picture with its bytes; "bad" is no picture, and "busy" is for a better time."""

    def __init__(self, server: ScriptedServer) -> None:
        self.seen: list[str] = []
        self.requests: list[caption_service_pb2.CaptionRequest] = []
        self.busy = True
        server.on("Caption", self.caption)

    def caption(self, request: caption_service_pb2.CaptionRequest, context: object) -> object:
        self.requests.append(request)
        results = [self.result(index, image.data) for index, image in enumerate(request.images)]
        return caption_service_pb2.CaptionResponse(results=results)

    def result(self, index: int, data: bytes) -> caption_service_pb2.CaptionResult:
        self.seen.append(data.decode())
        if data == b"bad":
            error = Status(code=3, message="no picture")
            return caption_service_pb2.CaptionResult(index=index, error=error)
        if data == b"busy" and self.busy:
            error = Status(code=8, message="too much to do")
            return caption_service_pb2.CaptionResult(index=index, error=error)
        words = [data.decode()] * (3 if data == b"three" else 1)
        return caption_service_pb2.CaptionResult(index=index, captions=texts(*words))


def write_files(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_text(name)
    return folder


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_captions_are_lines_and_the_rest_is_said_elsewhere(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    captioner = Captioner(server)
    folder = write_files(tmp_path / "in", "one", "bad", "three")
    assert (
        main(["caption", str(folder), "--prompt", "a photo of", "--beam-size", "4", "--batch-size", "2"]) == 3
    )
    output = capsys.readouterr()
    found = {str(line["id"]): line for line in lines(output.out)}
    assert list(found) == ["bad.png", "one.png", "three.png"]
    assert found["one.png"] == {"id": "one.png", "caption": "one", "score": -0.5, "token_ids": [101, 7, 102]}
    assert found["bad.png"] == {"id": "bad.png", "error": "no picture"}
    assert len(found["three.png"]["captions"]) == 3  # type: ignore[arg-type]  # JSON
    assert "refused bad.png: no picture" in output.err
    assert "2 captioned, 0 were done already, 1 refused" in output.err
    assert [len(request.images) for request in captioner.requests] == [2, 1]
    assert captioner.requests[0].prompt == "a photo of"
    assert captioner.requests[0].options.beam_search.beam_size == 4


def test_a_second_run_does_what_is_missing_and_what_failed_in_passing(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    captioner = Captioner(server)
    folder = write_files(tmp_path / "in", "one", "bad", "busy")
    output = tmp_path / "out.jsonl"
    command = ["caption", str(folder), "--output", str(output)]
    assert main(command) == 1
    assert "failed busy.png: too much to do" in capsys.readouterr().err
    captioner.busy = False
    captioner.seen.clear()
    write_files(folder, "two")
    (folder / "gone.png").symlink_to(tmp_path / "nothing")
    assert main(command) == 0
    assert "2 captioned, 2 were done already, 0 refused" in capsys.readouterr().err
    assert captioner.seen == ["busy", "two"]
    assert sorted(str(line["id"]) for line in lines(output.read_text())) == [
        "bad.png",
        "busy.png",
        "one.png",
        "two.png",
    ]
    assert main([*command, "--prompt", "other"]) == 2
    assert "begun with other settings (prompt '', not 'other')" in capsys.readouterr().err


def test_json_lines_name_pictures_and_ids(server: ScriptedServer, tmp_path: Path, capsys: Output) -> None:
    Captioner(server)
    write_files(tmp_path, "one")
    named = [{"image": "one.png", "id": "first"}, {"image": "gone.png"}, {"nothing": 1}]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(each) for each in named))
    assert main(["caption", str(tmp_path / "list.jsonl")]) == 3
    output = capsys.readouterr()
    assert [line["id"] for line in lines(output.out)] == ["first", "gone.png"]
    assert "cannot be read" in output.err
    assert "refused list.jsonl:3" in output.err


def test_a_killed_run_is_finished_and_each_picture_captioned_once(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    names = [f"p{number:02}" for number in range(24)]
    folder = write_files(tmp_path / "in", *names)
    output = tmp_path / "out.jsonl"
    command = ["caption", str(folder), "--output", str(output), "--batch-size", "2"]
    captioner = Captioner(server)
    for kill_at in (1, 4, 3):
        arrived = threading.Semaphore(0)
        answer = threading.Event()
        count = 0

        def caption(
            request: caption_service_pb2.CaptionRequest,
            context: grpc.ServicerContext,
            at: int = kill_at,
            state: SimpleNamespace = SimpleNamespace(arrived=arrived, answer=answer),  # noqa: B008
        ) -> object:
            nonlocal count
            count += 1
            if count == at:
                state.arrived.release()
                state.answer.wait(30)
            return captioner.caption(request, context)

        server.on("Caption", caption)
        running = subprocess.Popen(
            [sys.executable, "-m", "mplug_services.cli", *command],
            stderr=subprocess.DEVNULL,
            env=dict(os.environ),
        )
        assert arrived.acquire(timeout=50)
        running.send_signal(signal.SIGKILL)
        assert running.wait(30) == -signal.SIGKILL
        answer.set()
    before = output.read_bytes()
    assert len(before.splitlines()) == (0 + 3 + 2) * 2
    Captioner(server)
    assert main(command) == 0
    assert "14 captioned, 10 were done already, 0 refused" in capsys.readouterr().err
    assert output.read_bytes().startswith(before)
    assert sorted(str(line["id"]) for line in lines(output.read_text())) == [f"{name}.png" for name in names]


def test_a_server_without_the_model_says_so(server: ScriptedServer, tmp_path: Path, capsys: Output) -> None:
    def refuse(request: object, context: grpc.ServicerContext) -> object:
        abort(context, grpc.StatusCode.FAILED_PRECONDITION, "no caption_model is configured")
        return None

    server.on("Caption", refuse)
    folder = write_files(tmp_path / "in", "one")
    assert main(["caption", str(folder)]) == 1
    assert "no caption_model is configured" in capsys.readouterr().err
    info = model_service_pb2.GetServerInfoResponse(limits=LIMITS)
    server.on("GetServerInfo", lambda request, context: info)
    assert main(["caption", str(folder), "--output", str(tmp_path / "out.jsonl")]) == 1
    assert "no model for caption" in capsys.readouterr().err


class Answerer:
    """Answers with the question; ranks a list backwards."""

    def __init__(self, server: ScriptedServer) -> None:
        self.requests: list[vqa_service_pb2.AnswerRequest] = []
        server.on("Answer", self.answer)

    def answer(self, request: vqa_service_pb2.AnswerRequest, context: object) -> object:
        self.requests.append(request)
        ranked = [
            vqa_service_pb2.RankedAnswer(index=index, text=text, probability=0.5)
            for index, text in reversed(list(enumerate(request.rank.answers)))
        ]
        (question,) = request.questions
        if question.image.data == b"bad":
            result = vqa_service_pb2.AnswerResult(error=Status(code=3, message="no picture"))
        elif ranked:
            result = vqa_service_pb2.AnswerResult(ranked=vqa_service_pb2.RankedAnswers(answers=ranked))
        else:
            result = vqa_service_pb2.AnswerResult(answers=texts(question.question))
        return vqa_service_pb2.AnswerResponse(results=[result])


def test_ask_prints_the_answer(
    server: ScriptedServer, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = Answerer(server)
    picture = write_files(tmp_path, "one", "bad") / "one.png"
    assert main(["ask", str(picture), "what is it?", "--seed", "3"]) == 0
    assert capsys.readouterr().out == "what is it?\n"
    assert answerer.requests[0].generate.sampling.seed == 3
    assert main(["ask", str(picture), "what is it?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["token_ids"] == [101, 7, 102]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"one")))
    assert main(["ask", "-", "is it?", "--answers", "yes", "no", "--rank-k", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "no"
    assert answerer.requests[-1].rank.k == 2
    assert main(["ask", str(picture), "is it?", "--answers", "yes", "no"]) == 0
    assert "probability" in capsys.readouterr().out
    assert main(["ask", str(tmp_path / "bad.png"), "what is it?"]) == 1
    assert "no picture" in capsys.readouterr().err


def test_search_shows_both_scores_and_says_what_was_not_reached(
    server: ScriptedServer, capsys: Output
) -> None:
    asked: list[search_service_pb2.SearchRequest] = []

    def search(request: search_service_pb2.SearchRequest, context: object) -> object:
        asked.append(request)
        hits = [
            search_service_pb2.SearchHit(
                id="a.png", score=0.25, match_probability=0.875, caption="a [red] cat"
            ),
            search_service_pb2.SearchHit(id="b.png", score=0.5),
        ]
        model = common_pb2.ModelVersion(name="itm")
        return search_service_pb2.SearchResponse(hits=hits, reranked_count=1, rerank_model=model)

    server.on("Search", search)
    command = ["search", "cat", "--collection", "pets", "--rerank", "2", "--fusion", "sum", "--captions"]
    assert main(command) == 0
    output = capsys.readouterr()
    assert "0.875" in output.out
    assert "0.250" in output.out
    assert "[red]" in output.out
    assert "itm" in output.out
    assert "1 of 2 hits were reranked" in output.err
    assert asked[0].rerank_top_k == 2
    assert asked[0].score_fusion == search_service_pb2.SCORE_FUSION_SUM
    assert main([*command, "--json"]) == 0
    hit = json.loads(capsys.readouterr().out)["hits"][0]
    assert (hit["match_probability"], hit["caption"]) == (0.875, "a [red] cat")
