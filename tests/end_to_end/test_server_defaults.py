"""A server at its defaults: the model that ships does all four tasks, by client, by command and as a pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mplug
from mplug import prompts
from mplug.checkpoints import native
from mplug.evaluation.forms import lines_of
from mplug.loading import find_folder
from mplug_services.cli import main
from mplug_services.cli.demo_queries import PROMPT_ZH
from mplug_services.cli.server_process import ServerProcess
from mplug_services.client import Client, GenerationOptions, IngestItem, Question, ScoreFusion
from mplug_services.config import ServeConfig
from mplug_services.runners.models import model_loader

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

TASKS = ["retrieval", "rerank", "caption", "vqa"]
PHOTOS = Path(__file__).parents[2] / "examples" / "gallery" / "images" / "photos"
NAMES = ("chelsea.jpg", "coffee.jpg", "rocket.jpg", "flower.jpg")
QUESTIONS = (
    "is there a cat in the picture?",
    "这是什么？",
    "is this a vehicle or place?",
    "what color is the flower?",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; it knows the photos."""
    with ServerProcess(tmp_path_factory.mktemp("defaults")) as process, Client(process.address) as client:
        found = client.ingest("photos", [IngestItem(name, PHOTOS / name) for name in NAMES])
        assert [each.error for each in found] == [None] * len(NAMES)
        yield process.address


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def test_one_model_is_for_every_task_with_pictures(client: Client) -> None:
    info = client.server_info()
    served = [(each.task, each.name) for each in info.models if each.name != "palm-mini"]
    assert served == [*((task, "mplug-mini") for task in TASKS), ("text-generation", "gpt3-poem-mini")]
    assert all("esearch use" in each.licence for each in info.models)


def test_it_writes_poems_and_couplets(client: Client) -> None:
    (poem,) = client.generate([prompts.poem(tune="浣溪沙")])
    assert len(lines_of(poem.text)) > 3
    length = GenerationOptions(min_length=7, max_length=7)
    (second,) = client.generate([prompts.couplet("春到江南花似锦")], options=length, model="palm-mini")
    assert len(second.text) == 7


@pytest.mark.parametrize("prompt", ["", PROMPT_ZH])
def test_it_captions(client: Client, prompt: str) -> None:
    captions = [each.text for each in client.caption([PHOTOS / name for name in NAMES], prompt=prompt)]
    assert all(caption.removeprefix(prompt).strip() for caption in captions)
    assert len(set(captions)) > 1


def test_it_answers_and_ranks_answers(client: Client) -> None:
    asked = [Question(PHOTOS / name, question) for name, question in zip(NAMES, QUESTIONS, strict=True)]
    assert all(each.text.strip() for each in client.answer(asked))
    for outcome in client.rank_answers(asked, ["yes", "no", "一杯咖啡"]):
        assert sorted(each.text for each in outcome.answers) == ["no", "yes", "一杯咖啡"]
        assert sum(each.probability for each in outcome.answers) == pytest.approx(1, abs=1e-3)


def test_it_reranks(client: Client) -> None:
    result = client.rerank("a cat", [*NAMES, PHOTOS / "astronaut.jpg"], collection="photos")
    assert result.reranked_count == 5
    assert all(0 <= (each.match_probability or -1) <= 1 for each in result.outcomes)


def test_a_search_reranks_and_captions_its_hits(client: Client) -> None:
    found = client.search(
        "photos", text="一只猫", rerank_top_k=3, score_fusion=ScoreFusion.SUM, caption_results=True
    )
    assert len(found.hits) == len(NAMES)
    assert found.reranked_count == 3
    assert [hit.match_probability is None for hit in found.hits] == [False] * 3 + [True]
    assert all(0 <= hit.match_probability <= 1 for hit in found.hits if hit.match_probability is not None)
    assert all(hit.caption for hit in found.hits)


def test_the_commands_need_no_model(
    server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLUG_ADDRESS", server)
    picture = str(PHOTOS / "chelsea.jpg")
    assert main(["caption", picture]) == 0
    assert json.loads(capsys.readouterr().out)["caption"]
    assert main(["ask", picture, QUESTIONS[0]]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["search", "a cat", "--collection", "photos", "--rerank", "4", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert all(0 <= hit["match_probability"] <= 1 for hit in hits)


def test_pipelines_here_need_no_model_and_say_what_the_server_says(client: Client) -> None:
    picture = PHOTOS / "coffee.jpg"
    (caption,), (answer,) = client.caption([picture]), client.answer([Question(picture, QUESTIONS[1])])
    (match,) = client.rerank("a cup of coffee", [picture]).outcomes
    assert mplug.pipeline("image-captioning")(picture) == {"caption": caption.text}
    assert mplug.pipeline("visual-question-answering")((picture, QUESTIONS[1])) == {"text": answer.text}
    ((_, probability),) = mplug.pipeline("image-text-retrieval")((picture, "a cup of coffee"))["scores"]
    assert probability == pytest.approx(match.match_probability, abs=5e-3)  # tokens are kept as fp16


def test_all_four_tasks_together_hold_the_weights_once() -> None:
    models = model_loader(ServeConfig(text_model="").sources, "cpu", "float32")()
    assert list(models) == TASKS
    tensors: dict[int, torch.Tensor] = {}
    for model in models.values():
        assert isinstance(model, torch.nn.Module)
        tensors |= {tensor.data_ptr(): tensor for tensor in model.state_dict(keep_vars=True).values()}
    assert sum(tensor.numel() for tensor in tensors.values()) <= numbers_stored()


def numbers_stored() -> int:
    """Numbers in the file of weights; those of a quantized one are stored beside scales."""
    with safe_open(find_folder("mplug-mini") / native.WEIGHTS_FILE, framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - no mapping
