"""Captions, answers and reranking over the wire, against a server that says what a test wants."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc.status_pb2 import Status

from mplug_api.v1 import (
    caption_service_pb2,
    common_pb2,
    rerank_service_pb2,
    search_service_pb2,
    vqa_service_pb2,
)
from mplug_api.v1 import generation_pb2 as pb
from mplug_services.client import (
    AsyncClient,
    Client,
    GenerationOptions,
    ImageInput,
    ImageSource,
    InvalidRequestError,
    NotFoundError,
    Question,
    RetryPolicy,
    ScoreFusion,
    TextProgress,
    UnavailableError,
)
from services.client.conftest import FAST_RETRY
from services.client.scripted_server import LIMITS, ScriptedServer, abort

ONCE = RetryPolicy(max_attempts=1)


def texts(*words: str, seed: int | None = None) -> pb.GeneratedTexts:
    each = [pb.GeneratedText(text=word, score=-0.5, token_ids=[101, 7, 102]) for word in words]
    return pb.GeneratedTexts(texts=each, seed=seed)


class Captioner:
    """Captions a picture with its bytes, refuses "bad", and remembers the requests."""

    def __init__(self, server: ScriptedServer) -> None:
        self.requests: list[caption_service_pb2.CaptionRequest] = []
        server.on("Caption", self.caption)

    def caption(self, request: caption_service_pb2.CaptionRequest, context: object) -> object:
        self.requests.append(request)
        results = []
        for index, image in enumerate(request.images):
            if image.data == b"bad":
                error = Status(code=3, message="no picture")
                results.append(caption_service_pb2.CaptionResult(index=index, error=error))
            else:
                captions = texts(image.data.decode() or image.uri)
                results.append(caption_service_pb2.CaptionResult(index=index, captions=captions))
        return caption_service_pb2.CaptionResponse(results=list(reversed(results)))


def test_captions_come_in_order_whatever_is_refused_and_split(server: ScriptedServer, tmp_path: Path) -> None:
    captioner = Captioner(server)
    images: list[ImageSource] = [
        b"one",
        tmp_path / "gone.png",
        b"bad",
        ImageInput(uri="two"),
        b"three",
        b"four",
        b"five",
    ]
    with Client(server.address) as client:
        outcomes = client.caption(images, prompt="a picture of")
    assert [outcome.index for outcome in outcomes] == list(range(7))
    good = [outcome.text for outcome in outcomes if outcome.error is None]
    assert good == ["one", "two", "three", "four", "five"]
    assert outcomes[1].error is not None
    assert outcomes[1].error.reason == "UNREADABLE_FILE"
    with pytest.raises(InvalidRequestError, match="no picture"):
        _ = outcomes[2].text
    assert [len(request.images) for request in captioner.requests] == [4, 2]
    assert {request.prompt for request in captioner.requests} == {"a picture of"}
    assert not captioner.requests[0].HasField("options")
    assert outcomes[0].texts[0].token_ids == (101, 7, 102)


async def test_captions_come_in_order_async(server: ScriptedServer) -> None:
    Captioner(server)
    async with AsyncClient(server.address) as client:
        outcomes = await client.caption([b"one", b"bad", b"two"])
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (GenerationOptions(), pb.GenerationOptions()),
        (
            GenerationOptions(max_length=0, min_length=2, num_results=3, deterministic=True),
            pb.GenerationOptions(max_length=0, min_length=2, num_results=3, deterministic=True),
        ),
        (GenerationOptions(method="greedy"), pb.GenerationOptions(greedy=pb.Greedy())),
        (GenerationOptions(method="beam"), pb.GenerationOptions(beam_search=pb.BeamSearch())),
        (GenerationOptions(beam_size=2), pb.GenerationOptions(beam_search=pb.BeamSearch(beam_size=2))),
        (
            GenerationOptions(seed=0, temperature=0.5, top_k=0, top_p=0.25),
            pb.GenerationOptions(sampling=pb.Sampling(seed=0, temperature=0.5, top_k=0, top_p=0.25)),
        ),
        (
            GenerationOptions(method="sample", repetition_penalty=1.5, no_repeat_ngram_size=0),
            pb.GenerationOptions(sampling=pb.Sampling(), repetition_penalty=1.5, no_repeat_ngram_size=0),
        ),
    ],
)
def test_options_travel_as_they_are(
    server: ScriptedServer, options: GenerationOptions, expected: pb.GenerationOptions
) -> None:
    captioner = Captioner(server)
    with Client(server.address) as client:
        client.caption([b"one"], options=options)
    assert captioner.requests[0].options == expected


def test_options_of_two_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="several methods together: beam, sample"):
        GenerationOptions(beam_size=2, seed=1)
    with pytest.raises(ValueError, match="greedy"):
        GenerationOptions(method="greedy", beam_size=2)


def progress(*partial: str, last: str = "a cat") -> list[pb.GenerationProgress]:
    return [
        *(pb.GenerationProgress(partial_text=text) for text in partial),
        pb.GenerationProgress(finished=texts(last, seed=7)),
    ]


def captions(*partial: str) -> Iterator[caption_service_pb2.StreamCaptionResponse]:
    return (caption_service_pb2.StreamCaptionResponse(progress=each) for each in progress(*partial))


def check_stream(messages: list[TextProgress]) -> None:
    assert [message.text for message in messages] == ["a", "a c", "a cat"]
    assert [message.finished for message in messages] == [False, False, True]
    assert messages[-1].seed == 7


def test_a_stream_grows_to_its_end(server: ScriptedServer) -> None:
    server.on("StreamCaption", lambda request, context: captions("a", "a c"))
    answers = [vqa_service_pb2.StreamAnswerResponse(progress=each) for each in progress("a", "a c")]
    asked: list[vqa_service_pb2.StreamAnswerRequest] = []

    def answer(request: vqa_service_pb2.StreamAnswerRequest, context: object) -> object:
        asked.append(request)
        return iter(answers)

    server.on("StreamAnswer", answer)
    with Client(server.address) as client:
        check_stream(list(client.stream_caption(b"picture")))
        check_stream(list(client.stream_answer(b"picture", "what is it?")))
    assert asked[0].question == vqa_service_pb2.Question(
        image=common_pb2.ImageInput(data=b"picture"), question="what is it?"
    )


async def test_a_stream_grows_to_its_end_async(server: ScriptedServer) -> None:
    server.on("StreamCaption", lambda request, context: captions("a", "a c"))
    async with AsyncClient(server.address) as client:
        check_stream([message async for message in client.stream_caption(b"picture")])


def breaking(say: int) -> tuple[list[int], object]:
    """A stream that breaks after some messages, the first two times."""
    calls: list[int] = []

    def answer(request: object, context: grpc.ServicerContext) -> Iterator[object]:
        calls.append(1)
        messages = list(captions("a", "a c"))
        if len(calls) <= 2:
            yield from messages[:say]
            abort(context, grpc.StatusCode.UNAVAILABLE, "going down")
        yield from messages

    return calls, answer


def test_a_stream_is_tried_again_only_while_it_has_said_nothing(server: ScriptedServer) -> None:
    calls, answer = breaking(say=0)
    server.on("StreamCaption", answer)  # type: ignore[arg-type]  # returned as object beside what it records
    with Client(server.address, retry=FAST_RETRY) as client:
        check_stream(list(client.stream_caption(b"picture")))
    assert len(calls) == 3

    calls, answer = breaking(say=1)
    server.on("StreamCaption", answer)  # type: ignore[arg-type]
    got: list[str] = []
    with Client(server.address, retry=FAST_RETRY) as client, pytest.raises(UnavailableError):
        got.extend(message.text for message in client.stream_caption(b"picture"))
    assert got == ["a"]
    assert len(calls) == 1


def waiting_for_the_end() -> tuple[threading.Event, object]:
    """A stream that says one word and then waits until nobody listens any more."""
    ended = threading.Event()

    def answer(request: object, context: grpc.ServicerContext) -> Iterator[object]:
        context.add_callback(ended.set)
        yield next(captions("a"))
        ended.wait(30)

    return ended, answer


def test_a_reader_that_leaves_ends_the_stream(server: ScriptedServer) -> None:
    ended, answer = waiting_for_the_end()
    server.on("StreamCaption", answer)  # type: ignore[arg-type]
    with Client(server.address) as client:
        for _message in client.stream_caption(b"picture"):
            break
        assert ended.wait(20)


async def test_a_reader_that_leaves_ends_the_stream_async(server: ScriptedServer) -> None:
    ended, answer = waiting_for_the_end()
    server.on("StreamCaption", answer)  # type: ignore[arg-type]
    async with AsyncClient(server.address) as client:
        stream = client.stream_caption(b"picture")
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        assert ended.wait(20)


def test_a_stream_of_a_file_that_is_gone_says_so(server: ScriptedServer, tmp_path: Path) -> None:
    with (
        Client(server.address) as client,
        pytest.raises(InvalidRequestError, match=r"gone\.png cannot be read"),
    ):
        list(client.stream_caption(tmp_path / "gone.png"))
    assert server.calls == []


class Answerer:
    """Answers with the question itself; questions with "long" were longer than the model reads."""

    def __init__(self, server: ScriptedServer) -> None:
        self.requests: list[vqa_service_pb2.AnswerRequest] = []
        server.on("Answer", self.answer)

    def answer(self, request: vqa_service_pb2.AnswerRequest, context: object) -> object:
        self.requests.append(request)
        return vqa_service_pb2.AnswerResponse(
            results=[self.result(request, index) for index in range(len(request.questions))],
            truncated_questions=[i for i, each in enumerate(request.questions) if "long" in each.question],
        )

    def result(self, request: vqa_service_pb2.AnswerRequest, index: int) -> vqa_service_pb2.AnswerResult:
        if request.questions[index].question == "bad":
            return vqa_service_pb2.AnswerResult(index=index, error=Status(code=3, message="no question"))
        if request.HasField("rank"):
            ranked = [
                vqa_service_pb2.RankedAnswer(index=i, text=text, probability=0.5)
                for i, text in reversed(list(enumerate(request.rank.answers)))
            ]
            return vqa_service_pb2.AnswerResult(
                index=index, ranked=vqa_service_pb2.RankedAnswers(answers=ranked)
            )
        return vqa_service_pb2.AnswerResult(index=index, answers=texts(request.questions[index].question))


QUESTIONS = [Question(b"picture", each) for each in ("one", "bad", "long two", "three", "long four", "five")]


def test_answers_come_in_order(server: ScriptedServer, tmp_path: Path) -> None:
    answerer = Answerer(server)
    with Client(server.address) as client:
        outcomes = client.answer([Question(tmp_path / "gone.png", "zero"), *QUESTIONS])
    good = [outcome.text for outcome in outcomes if outcome.error is None]
    assert good == ["one", "long two", "three", "long four", "five"]
    assert [outcome.index for outcome in outcomes if outcome.error is not None] == [0, 2]
    assert [outcome.index for outcome in outcomes if outcome.truncated] == [3, 5]
    assert [request.WhichOneof("mode") for request in answerer.requests] == [None, None]


def test_given_answers_are_ranked(server: ScriptedServer) -> None:
    answerer = Answerer(server)
    with Client(server.address) as client:
        outcomes = client.rank_answers(QUESTIONS, ["yes", "no"], k=1)
    assert [(each.index, each.text) for each in outcomes[0].answers] == [(1, "no"), (0, "yes")]
    assert outcomes[1].error is not None
    assert all(request.rank.k == 1 for request in answerer.requests)


def test_a_long_list_of_answers_leaves_room_for_fewer_questions(server: ScriptedServer) -> None:
    answerer = Answerer(server)
    fifth = LIMITS.max_message_bytes // 5
    with Client(server.address) as client:
        outcomes = client.rank_answers([Question(bytes(fifth), "what?")] * 4, ["a" * (2 * fifth)])
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert [len(request.questions) for request in answerer.requests] == [2, 2]


async def test_answers_and_ranks_async(server: ScriptedServer) -> None:
    Answerer(server)
    async with AsyncClient(server.address) as client:
        assert (await client.answer(QUESTIONS[:1]))[0].text == "one"
        ranked = await client.rank_answers(QUESTIONS[:1], ["yes"])
    assert ranked[0].answers[0].text == "yes"


def rerank(request: rerank_service_pb2.RerankRequest, context: object) -> rerank_service_pb2.RerankResponse:
    assert (request.text, request.collection) == ("a cat", "pets")
    results = [
        rerank_service_pb2.RerankResult(index=0, match_probability=0.75),
        rerank_service_pb2.RerankResult(index=1, error=Status(code=5, message="no such point")),
        rerank_service_pb2.RerankResult(index=2, not_reached=True),
    ]
    assert [each.WhichOneof("candidate") for each in request.candidates] == [
        "stored_id",
        "stored_id",
        "image",
    ]
    return rerank_service_pb2.RerankResponse(
        results=results, reranked_count=2, model=common_pb2.ModelVersion(name="itm")
    )


def test_reranking_says_what_was_not_reached(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("Rerank", rerank)
    with Client(server.address) as client:
        result = client.rerank("a cat", ["one", tmp_path / "gone", "two", b"picture"], collection="pets")
    assert [outcome.index for outcome in result.outcomes] == [0, 1, 2, 3]
    assert result.outcomes[0].match_probability == 0.75
    assert isinstance(result.outcomes[2].error, NotFoundError)
    assert [outcome.reached for outcome in result.outcomes] == [True, True, True, False]
    assert result.reranked_count == 3
    assert result.model.name == "itm"


async def test_reranking_async(server: ScriptedServer) -> None:
    server.on("Rerank", rerank)
    async with AsyncClient(server.address) as client:
        result = await client.rerank("a cat", ["one", "two", b"picture"], collection="pets")
    assert [outcome.match_probability for outcome in result.outcomes] == [0.75, None, None]


def test_a_search_gives_both_scores_and_captions(server: ScriptedServer) -> None:
    asked: list[search_service_pb2.SearchRequest] = []

    def search(request: search_service_pb2.SearchRequest, context: object) -> object:
        asked.append(request)
        hits = [
            search_service_pb2.SearchHit(id="a", score=0.5, match_probability=0.0, caption=""),
            search_service_pb2.SearchHit(id="b", score=0.25),
        ]
        model = common_pb2.ModelVersion(name="itm")
        return search_service_pb2.SearchResponse(hits=hits, reranked_count=1, rerank_model=model)

    server.on("Search", search)
    with Client(server.address) as client:
        result = client.search(
            "pets", text="a", rerank_top_k=5, score_fusion=ScoreFusion.SUM, caption_results=True
        )
        client.search("pets", text="a")
    assert [(hit.match_probability, hit.caption) for hit in result.hits] == [(0.0, ""), (None, None)]
    assert result.reranked_count == 1
    assert result.rerank_model is not None
    assert (asked[0].rerank_top_k, asked[0].score_fusion) == (5, search_service_pb2.SCORE_FUSION_SUM)
    assert asked[0].caption_results
    assert (asked[1].rerank_top_k, asked[1].score_fusion, asked[1].caption_results) == (0, 0, False)


def test_a_failed_call_is_an_exception(server: ScriptedServer) -> None:
    def refuse(request: object, context: grpc.ServicerContext) -> object:
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, "options.max_length is -1")
        return None

    server.on("Caption", refuse)
    with Client(server.address, retry=ONCE) as client, pytest.raises(InvalidRequestError, match="max_length"):
        client.caption([b"one"], options=GenerationOptions(max_length=-1))
