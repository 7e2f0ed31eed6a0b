"""TextService of a real server: what the models give alone, errors by item, limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import mplug
from golden.gpt3_cases import tiny_generator
from golden.structbert_cases import tiny, tiny_config
from mplug.gpt3 import Gpt3Generator
from mplug.structbert import Classifier, EntailmentClassifier, Tagger
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1 import model_service_pb2
from mplug_api.v1 import text_service_pb2 as pb
from mplug_api.v1.model_service_pb2_grpc import ModelServiceStub
from mplug_api.v1.text_service_pb2_grpc import TextServiceStub
from mplug_services.client import AsyncClient, GenerationOptions, InvalidRequestError, KnownQuestion
from mplug_services.server import running_server
from mplug_services.work import STREAM_PAUSE
from services.generation_servers import ids_of
from services.pets import fails
from services.serving import fields_of, reason_of, serve_config, tiny_server
from services.text_servers import alone, greedy, judging_models, text_server
from text_models import write_gpt3

Code = grpc.StatusCode
TEXTS = ["piece5 piece6", "piece7", "piece8 piece9 piece10"]


@pytest.fixture(scope="module")
def model() -> Gpt3Generator:
    return tiny_generator("plain")


@pytest.fixture
async def stub(model: Gpt3Generator, tmp_path: Path) -> AsyncIterator[Any]:
    """Of a server of three tiny models. Any: the stub."""
    models = {"text-generation": model, **judging_models()}
    async with text_server(tmp_path, models) as (_, channel):
        yield TextServiceStub(channel)


async def test_texts_are_the_model_s_own_whatever_the_settings(stub: Any) -> None:
    model = tiny_generator("plain")
    cases: list[tuple[gen.GenerationOptions, dict[str, Any]]] = [
        (greedy(8), {"method": "greedy", "max_length": 8, "min_length": 8}),
        (
            gen.GenerationOptions(
                max_length=6, num_results=2, beam_search=gen.BeamSearch(beam_size=3, length_penalty=1.0)
            ),
            {"method": "beam", "max_length": 6, "num_results": 2, "beam_size": 3, "length_penalty": 1.0},
        ),
        (
            gen.GenerationOptions(max_length=7, num_results=2, sampling=gen.Sampling(top_k=9, seed=5)),
            {"method": "sample", "max_length": 7, "num_results": 2, "top_k": 9, "seed": 5},
        ),
    ]
    for options, settings in cases:
        response = await stub.Generate(pb.GenerateRequest(texts=TEXTS, options=options, log_probs=True))
        for text, result in zip(TEXTS, response.results, strict=True):
            expected = alone(model, text, **settings)
            assert ids_of(result.texts) == [list(one.token_ids) for one in expected]
            assert [one.text for one in result.texts.texts] == [one.text for one in expected]
            for one, other in zip(result.texts.texts, expected, strict=True):
                assert list(one.log_probs) == pytest.approx(other.log_probs, abs=1e-4)
                assert one.score == pytest.approx(other.score, abs=1e-4)


async def test_log_probs_add_up_to_the_score(stub: Any) -> None:
    options = gen.GenerationOptions(max_length=9, sampling=gen.Sampling(seed=1))
    response = await stub.Generate(pb.GenerateRequest(texts=TEXTS, options=options, log_probs=True))
    for result in response.results:
        (text,) = result.texts.texts
        assert sum(text.log_probs) / len(text.log_probs) == pytest.approx(text.score, abs=1e-4)
        assert len(text.log_probs) < len(text.token_ids)
    plain = await stub.Generate(pb.GenerateRequest(texts=TEXTS, options=options))
    assert ids_of(plain.results[0].texts) == ids_of(response.results[0].texts)
    assert not plain.results[0].texts.texts[0].log_probs


async def test_a_text_ends_before_a_stop_text(stub: Any) -> None:
    whole = (await stub.Generate(pb.GenerateRequest(texts=TEXTS[:1], options=greedy(12)))).results[0]
    words = whole.texts.texts[0].text.split()
    assert whole.texts.texts[0].finish_reason == gen.FINISH_REASON_LENGTH
    stop = words[4]
    request = pb.GenerateRequest(texts=TEXTS[:1], options=greedy(12), stop=["nothing", stop])
    cut = (await stub.Generate(request)).results[0].texts.texts[0]
    assert cut.text.split() == words[: words.index(stop)]
    assert cut.finish_reason == gen.FINISH_REASON_STOP
    assert len(cut.token_ids) < len(whole.texts.texts[0].token_ids), "it was generated no further"


async def test_a_stream_grows_to_the_text_of_the_batch(stub: Any) -> None:
    batch = await stub.Generate(pb.GenerateRequest(texts=TEXTS, options=greedy(10), log_probs=True))
    for text, result in zip(TEXTS, batch.results, strict=True):
        request = pb.StreamGenerateRequest(text=text, options=greedy(10), log_probs=True)
        *parts, last = [each async for each in stub.StreamGenerate(request)]
        (expected,) = result.texts.texts
        (found,) = last.progress.finished.texts
        assert (found.text, list(found.token_ids)) == (expected.text, list(expected.token_ids))
        assert list(found.log_probs) == pytest.approx(list(expected.log_probs), abs=1e-4)
        grown = [part.progress.partial_text for part in parts]
        assert grown
        assert all(found.text.startswith(part) for part in grown)
        assert [len(part) for part in grown] == sorted({len(part) for part in grown})


async def test_a_stream_says_no_more_than_can_be_read(stub: Any) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    request = pb.StreamGenerateRequest(text=TEXTS[0], options=greedy(30))
    *parts, last = [each async for each in stub.StreamGenerate(request)]
    assert 0 < len(parts) <= (loop.time() - started) / STREAM_PAUSE + 1
    assert len(last.progress.finished.texts[0].token_ids) >= 30


async def test_a_bad_text_harms_no_neighbour(stub: Any) -> None:
    texts = ["piece5", "", " ", "x" * 300_000, "piece6 " * 47, "piece7"]
    response = await stub.Generate(pb.GenerateRequest(texts=texts, options=greedy(4)))
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds == ["texts", *["error"] * 4, "texts"]
    errors = [result.error for result in response.results[1:5]]
    assert [reason_of(error) for error in errors] == [
        "EMPTY_TEXT",
        "EMPTY_TEXT",
        "TEXT_TOO_LONG",
        "OUT_OF_RANGE",
    ]
    assert [fields_of(error) for error in errors] == [[f"texts[{index}]"] for index in range(1, 5)]
    assert "the text may grow to 50 tokens" in errors[3].message


async def test_a_text_that_was_cut_is_named(stub: Any) -> None:
    texts = ["piece5", "piece6 " * 500]
    options = greedy(1)
    response = await stub.Generate(pb.GenerateRequest(texts=texts, options=options))
    assert list(response.truncated_texts) == [1]
    stream = stub.StreamGenerate(pb.StreamGenerateRequest(text=texts[1], options=options))
    assert [each.truncated async for each in stream][-1]


BAD_REQUESTS = [
    (pb.GenerateRequest(options=greedy(4)), "texts"),
    (pb.GenerateRequest(texts=["piece5"] * 257, options=greedy(4)), "texts"),
    (pb.GenerateRequest(texts=["piece5"], options=gen.GenerationOptions(max_length=0)), "options.max_length"),
    (
        pb.GenerateRequest(texts=["piece5"], options=gen.GenerationOptions(max_length=49)),
        "options.max_length",
    ),
    (
        pb.GenerateRequest(
            texts=["piece5"],
            options=gen.GenerationOptions(beam_search=gen.BeamSearch(beam_size=65), max_length=4),
        ),
        "options.beam_search.beam_size",
    ),
    (
        pb.GenerateRequest(
            texts=["piece5"],
            options=gen.GenerationOptions(sampling=gen.Sampling(temperature=0), max_length=4),
        ),
        "options.sampling.temperature",
    ),
    (
        pb.GenerateRequest(
            texts=["piece5"],
            options=gen.GenerationOptions(sampling=gen.Sampling(), num_results=65, max_length=4),
        ),
        "options.num_results",
    ),
    (pb.GenerateRequest(texts=["piece5"], options=greedy(4), stop=["a", ""]), "stop[1]"),
    (pb.GenerateRequest(texts=["piece5"], options=greedy(4), stop=["a"] * 17), "stop"),
]


async def test_what_cannot_be_is_named(stub: Any) -> None:
    for request, field in BAD_REQUESTS:
        assert fields_of(await fails(stub.Generate(request), Code.INVALID_ARGUMENT)) == [field]
    stream = stub.StreamGenerate(pb.StreamGenerateRequest(text=" ", options=greedy(4)))
    assert fields_of(await fails(stream.read(), Code.INVALID_ARGUMENT)) == ["text"]
    long = stub.StreamGenerate(pb.StreamGenerateRequest(text="piece6 " * 47, options=greedy(4)))
    assert fields_of(await fails(long.read(), Code.INVALID_ARGUMENT)) == ["text"]
    unknown = stub.Generate(pb.GenerateRequest(texts=["piece5"], model="nobody"))
    assert reason_of(await fails(unknown, Code.NOT_FOUND)) == "MODEL_NOT_FOUND"


async def test_labels_of_texts_and_pairs(stub: Any) -> None:
    entails = judging_models()["text-classification"]
    items = [pb.ClassifyItem(text="piece5"), pb.ClassifyItem(text="piece6", text_pair="piece7 " * 50)]
    response = await stub.Classify(pb.ClassifyRequest(items=items))
    expected = entails.nli.classify(["piece5", ("piece6", "piece7 " * 50)])
    for result, other in zip(response.results, expected, strict=True):
        assert [each.label for each in result.labels.scores] == [each.label for each in other.scores]
        scores = [each.score for each in result.labels.scores]
        assert scores == pytest.approx([each.score for each in other.scores], abs=1e-5)
    assert list(response.truncated_items) == [1]
    assert response.timings.HasField("forward")


async def test_labels_that_the_model_has_never_seen(stub: Any) -> None:
    entails = judging_models()["text-classification"]
    labels = ["piece11", "piece12", "piece13"]
    options = pb.ZeroShotOptions(labels=labels, template="piece14 {}")
    items = [pb.ClassifyItem(text=text) for text in TEXTS]
    response = await stub.Classify(pb.ClassifyRequest(items=items, zero_shot=options))
    expected = entails.classify(TEXTS, labels, template="piece14 {}")
    for result, other in zip(response.results, expected, strict=True):
        assert [each.label for each in result.labels.scores] == [each.label for each in other.scores]
        assert sum(each.score for each in result.labels.scores) == pytest.approx(1.0, abs=1e-4)


async def test_what_cannot_be_judged_is_named(stub: Any) -> None:
    one = [pb.ClassifyItem(text="piece5")]
    cases = [
        (pb.ClassifyRequest(), "items"),
        (pb.ClassifyRequest(items=one, zero_shot=pb.ZeroShotOptions()), "zero_shot.labels"),
        (pb.ClassifyRequest(items=one, zero_shot=pb.ZeroShotOptions(labels=["a"] * 257)), "zero_shot.labels"),
        (
            pb.ClassifyRequest(items=one, zero_shot=pb.ZeroShotOptions(labels=["a", " "])),
            "zero_shot.labels[1]",
        ),
        (
            pb.ClassifyRequest(items=one, zero_shot=pb.ZeroShotOptions(labels=["a"], template="b")),
            "zero_shot.template",
        ),
        (
            pb.ClassifyRequest(items=one, known_questions=pb.KnownQuestions()),
            "known_questions.questions",
        ),
    ]
    for request, field in cases:
        assert fields_of(await fails(stub.Classify(request), Code.INVALID_ARGUMENT)) == [field]
    questions = pb.KnownQuestions(questions=[pb.KnownQuestion(text="a", label="b")])
    status = await fails(
        stub.Classify(pb.ClassifyRequest(items=one, known_questions=questions)), Code.FAILED_PRECONDITION
    )
    assert reason_of(status) == "MODEL_OF_OTHER_TASK"
    labels = pb.ZeroShotOptions(labels=["piece1"])
    items = [*one, pb.ClassifyItem(text=""), pb.ClassifyItem(text="piece5", text_pair="piece6")]
    response = await stub.Classify(pb.ClassifyRequest(items=items, zero_shot=labels))
    assert [each.WhichOneof("result") for each in response.results] == ["labels", "error", "error"]
    assert fields_of(response.results[1].error) == ["items[1].text"]
    assert fields_of(response.results[2].error) == ["items[2].text_pair"]


async def test_masks_are_filled(stub: Any) -> None:
    filler = judging_models()["fill-mask"]
    texts = ["piece5 [MASK] piece6 [MASK]", "none here", "piece5 " * 60 + "[MASK]", ""]
    response = await stub.FillMask(pb.FillMaskRequest(texts=texts, top_k=2))
    (expected,) = filler.fill(texts[:1], top_k=2)
    filled = response.results[0].filled
    assert filled.text == expected.text
    pieces = [[each.piece for each in mask.candidates] for mask in filled.masks]
    assert pieces == [[each.piece for each in mask] for mask in expected.masks]
    errors = [result.error for result in response.results[1:]]
    assert [reason_of(error) for error in errors] == ["NO_MASK", "NO_MASK", "EMPTY_TEXT"]
    assert [fields_of(error) for error in errors] == [[f"texts[{index}]"] for index in (1, 2, 3)]
    status = await fails(stub.FillMask(pb.FillMaskRequest(texts=texts[:1], top_k=0)), Code.INVALID_ARGUMENT)
    assert fields_of(status) == ["top_k"]


async def test_models_that_are_not_configured_are_named(tmp_path: Path) -> None:
    models = {"text-classification": tiny(Tagger, tiny_config(labels=("O", "B-A", "I-A")))}
    async with text_server(tmp_path, models) as (_, channel):
        stub: Any = TextServiceStub(channel)
        for call, setting in (
            (stub.Generate(pb.GenerateRequest(texts=["piece5"])), "text_model"),
            (stub.FillMask(pb.FillMaskRequest(texts=["[MASK]"])), "fill_mask_model"),
        ):
            status = await fails(call, Code.FAILED_PRECONDITION)
            assert reason_of(status) == "MODEL_NOT_CONFIGURED"
            assert setting in status.message
        items = [pb.ClassifyItem(text="piece5 piece6"), pb.ClassifyItem(text="piece5", text_pair="piece6")]
        response = await stub.Classify(pb.ClassifyRequest(items=items))
        assert response.results[0].HasField("spans")
        assert fields_of(response.results[1].error) == ["items[1].text_pair"]


async def test_a_server_without_text_models_says_so(tmp_path: Path) -> None:
    async with tiny_server(tmp_path, services=("embedding", "text")) as (server, channel):
        assert not [name for name in server.full_names if "Text" in name]
        stub: Any = TextServiceStub(channel)
        status = await fails(stub.Generate(pb.GenerateRequest(texts=["a"])), Code.FAILED_PRECONDITION)
        assert "text_model" in status.message
    assert serve_config(tmp_path).text_model == ""


async def test_the_server_lists_its_text_models(model: Gpt3Generator, tmp_path: Path) -> None:
    models = {"text-generation": model, **judging_models()}
    async with text_server(tmp_path, models) as (server, channel):
        info: Any = ModelServiceStub(channel)
        listed = (await info.GetServerInfo(model_service_pb2.GetServerInfoRequest())).models
        assert [each.task for each in listed] == ["text-generation", "text-classification", "fill-mask"]
        assert [each.max_text_tokens for each in listed] == [48, 24, 24]
        assert len({each.embedding_fingerprint for each in listed}) == 3
        assert "mplug_api.v1.TextService" in server.full_names


async def test_clients_have_typed_outcomes(model: Gpt3Generator, tmp_path: Path) -> None:
    models = {"text-generation": model, "text-classification": EntailmentClassifier(tiny(Classifier))}
    async with text_server(tmp_path, models) as (server, _), AsyncClient(server.address) as client:
        options = GenerationOptions(max_length=6, min_length=6, method="greedy")
        outcomes = await client.generate([*TEXTS, ""], options=options, log_probs=True)
        assert [each.index for each in outcomes] == [0, 1, 2, 3]
        assert outcomes[0].texts[0].finish_reason == "length"
        assert len(outcomes[0].texts[0].log_probs) == 6
        assert isinstance(outcomes[3].error, InvalidRequestError)
        steps = [each async for each in client.stream_generate(TEXTS[0], options=options)]
        assert steps[-1].finished
        assert steps[-1].text == outcomes[0].text
        (judged,) = await client.classify(["piece5"], labels=["piece1", "piece2"])
        assert judged.best.score >= judged.labels[1].score
        known = [KnownQuestion("piece5", "a")]
        with pytest.raises(InvalidRequestError, match="give one of both"):
            await client.classify(["piece5"], labels=["a"], known_questions=known)
        many = await client.classify(["piece5"] * 300)
        assert [each.index for each in many] == list(range(300))


async def test_a_text_model_may_be_int8(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-gpt3"
    write_gpt3(folder)
    config = serve_config(tmp_path, services=("text",), text_model=str(folder), text_dtype="int8")
    async with running_server(config) as server, AsyncClient(server.address) as client:
        (listed,) = (await client.server_info()).models
        options = GenerationOptions(max_length=6, min_length=6, method="greedy")
        (outcome,) = await client.generate(TEXTS[:1], options=options)
    assert (listed.task, listed.dtype) == ("text-generation", "int8")
    small = mplug.load(folder, task="text-generation", dtype="int8")
    (expected,) = mplug.write(small, TEXTS[:1], method="greedy", max_length=6, min_length=6)
    assert outcome.text == expected[0].text
