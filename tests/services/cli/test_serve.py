"""What `mplug serve` says of itself, and `mplug info` of a server: which model does what."""

import json

import pytest

from mplug_api.v1 import index_service_pb2, model_service_pb2
from mplug_services.cli import main
from mplug_services.cli.serve import models_line
from mplug_services.config import ServeConfig
from services.client.scripted_server import LIMITS, scripted_server

Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {},
            "retrieval, rerank, caption and vqa by mplug-mini, text-generation by gpt3-poem-mini, on cpu",
        ),
        (
            {"model": "open_clip:ViT-B-32", "device": "cuda", "text_model": ""},
            "retrieval by open_clip:ViT-B-32, rerank, caption and vqa by mplug-mini, on cuda",
        ),
        (
            {"caption_model": "", "vqa_model": "", "text_model": ""},
            "retrieval and rerank by mplug-mini, on cpu",
        ),
        ({"services": ("caption",)}, "caption by mplug-mini, on cpu"),
        ({"services": ("index", "model")}, "no model"),
        ({"services": ("job", "caption"), "caption_model": ""}, "no model"),
    ],
)
def test_the_ready_line_says_which_model_does_what(settings: dict[str, object], line: str) -> None:
    assert models_line(ServeConfig(**settings)) == line  # type: ignore[arg-type]  # settings of several types


def test_help_says_what_each_task_takes_and_how_to_leave_it_out(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    for task in ("rerank", "caption", "vqa"):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(f"--{task}-model VALUE"))
        assert "(default: mplug-mini)" in text.partition(line)[2][:250] + line


def test_info_lists_tasks_models_and_licences(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    models = [
        model_service_pb2.ServedModel(name="big", task="retrieval", embedding_dimension=512),
        *(
            model_service_pb2.ServedModel(name="mini", task=task, licence="for research", device="cpu")
            for task in ("rerank", "caption")
        ),
    ]
    with scripted_server() as server:
        monkeypatch.setenv("MPLUG_ADDRESS", server.address)
        kernels = [
            model_service_pb2.AttentionKernel(
                name=name, compiled=name == "kv", explanation="compiled: fast" if name == "kv" else "plain"
            )
            for name in ("kv", "absorbed_two", "absorbed_one")
        ]
        answer = model_service_pb2.GetServerInfoResponse(limits=LIMITS, models=models, kernels=kernels)
        server.on("GetServerInfo", lambda *_: answer)
        server.on("ListCollections", lambda *_: index_service_pb2.ListCollectionsResponse())
        assert main(["info"]) == 0
        text = capsys.readouterr().out
        assert main(["info", "--json"]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in text.splitlines() if "│" in line]
    assert [row for row in rows if row[0] in ("retrieval", "rerank", "caption")] == [
        ["retrieval", "big"],
        ["rerank", "mini"],
        ["caption", "mini"],
    ]
    assert text.count("licence of mini: for research") == 1
    facts = json.loads(capsys.readouterr().out)
    assert "kv: compiled: fast" in text
    assert "absorbed_two, absorbed_one: plain" in text
    assert facts["attention kernels"][0] == {"name": "kv", "compiled": True, "explanation": "compiled: fast"}
    assert [each["compiled"] for each in facts["attention kernels"]] == [True, False, False]
    assert [each["task"] for each in facts["models"]] == ["retrieval", "rerank", "caption"]
