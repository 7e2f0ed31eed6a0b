"""Explanations over the wire, against a server that says what a test wants."""

import numpy as np
import pytest

from mplug_api.v1 import (
    caption_service_pb2,
    explanation_pb2,
    generation_pb2,
    model_service_pb2,
    rerank_service_pb2,
    vqa_service_pb2,
)
from mplug_services.client import (
    AsyncClient,
    Client,
    ExplainOptions,
    HeatMap,
    MatchOutcome,
    Question,
    RankOutcome,
    TextOutcome,
)
from services.client.scripted_server import LIMITS, ScriptedServer

MAP = explanation_pb2.HeatMap(
    word="cat", tokens=[1, 2], height=2, width=3, values=[0, 0.5, 1, 0, 0, 0.25], overlay=b"a jpeg"
)


class Explained:
    """Captions, answers and scores with a heat map where one is asked for; explains two items at a time."""

    def __init__(self, server: ScriptedServer) -> None:
        self.sizes: list[int] = []
        self.layers: list[int | None] = []
        limits = model_service_pb2.Limits(max_explained_items=2)
        limits.MergeFrom(LIMITS)
        info = model_service_pb2.GetServerInfoResponse(limits=limits)
        server.on("GetServerInfo", lambda request, context: info)
        server.on("Caption", self.caption)
        server.on("Answer", self.answer)
        server.on("Rerank", self.rerank)

    def caption(self, request: caption_service_pb2.CaptionRequest, context: object) -> object:
        results = [
            caption_service_pb2.CaptionResult(
                index=index, captions=generation_pb2.GeneratedTexts(), heat_maps=self.maps(request)
            )
            for index in range(self.note(request, len(request.images)))
        ]
        return caption_service_pb2.CaptionResponse(results=results)

    def answer(self, request: vqa_service_pb2.AnswerRequest, context: object) -> object:
        results = [
            vqa_service_pb2.AnswerResult(index=index, heat_maps=self.maps(request))
            for index in range(self.note(request, len(request.questions)))
        ]
        return vqa_service_pb2.AnswerResponse(results=results)

    def rerank(self, request: rerank_service_pb2.RerankRequest, context: object) -> object:
        results = [
            rerank_service_pb2.RerankResult(index=index, match_probability=0.5, heat_maps=self.maps(request))
            for index in range(self.note(request, len(request.candidates)))
        ]
        return rerank_service_pb2.RerankResponse(results=results)

    def note(self, request: object, count: int) -> int:
        self.sizes.append(count)
        return count

    def maps(self, request: object) -> list[explanation_pb2.HeatMap]:
        explain = getattr(request, "explain", None)
        assert isinstance(explain, explanation_pb2.ExplainOptions)
        if not getattr(request, "HasField")("explain"):  # noqa: B009 - of each of three messages
            return []
        self.layers.append(explain.layer if explain.HasField("layer") else None)
        return [MAP]


def check(heat_maps: tuple[HeatMap, ...]) -> None:
    (heat_map,) = heat_maps
    assert (heat_map.word, heat_map.tokens, heat_map.overlay) == ("cat", (1, 2), b"a jpeg")
    assert heat_map.cells_HW.dtype == np.float32
    np.testing.assert_array_equal(heat_map.cells_HW, [[0, 0.5, 1], [0, 0, 0.25]])


@pytest.mark.parametrize("explain", [ExplainOptions(), ExplainOptions(layer=0)])
def test_heat_maps_travel_as_they_are(server: ScriptedServer, explain: ExplainOptions) -> None:
    script = Explained(server)
    questions = [Question(b"picture", "what?")] * 3
    with Client(server.address) as client:
        outcomes: list[TextOutcome | RankOutcome | MatchOutcome] = [
            *client.caption([b"one", b"two", b"three"], explain=explain),
            *client.answer(questions, explain=explain),
            *client.rank_answers(questions, ["yes"], explain=explain),
            *client.rerank("text", [b"one", "two"], collection="pets", explain=explain).outcomes,
        ]
    assert len(outcomes) == 3 + 3 + 3 + 2
    for outcome in outcomes:
        check(outcome.heat_maps)
    assert script.sizes == [2, 1, 2, 1, 2, 1, 2], "no more than the server explains at a time"
    assert set(script.layers) == {explain.layer}


async def test_heat_maps_travel_as_they_are_async(server: ScriptedServer) -> None:
    Explained(server)
    explain, questions = ExplainOptions(layer=3), [Question(b"picture", "what?")]
    async with AsyncClient(server.address) as client:
        (caption,) = await client.caption([b"one"], explain=explain)
        (answer,) = await client.answer(questions, explain=explain)
        (ranked,) = await client.rank_answers(questions, ["yes"], explain=explain)
        (match,) = (await client.rerank("text", [b"one"], explain=explain)).outcomes
    for heat_maps in (caption.heat_maps, answer.heat_maps, ranked.heat_maps, match.heat_maps):
        check(heat_maps)


def test_without_asking_nothing_is_explained(server: ScriptedServer) -> None:
    script = Explained(server)
    with Client(server.address) as client:
        outcomes = client.caption([b"one", b"two", b"three"])
    assert [outcome.heat_maps for outcome in outcomes] == [()] * 3
    assert (script.sizes, script.layers) == ([3], [])
