"""VqaService of a real server: the reference's token ids, ranked answers, errors by item."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from golden.mplug_cases import GoldenCase, tiny
from mplug.generation import rank_answers
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug.vqa import VqaModel
from mplug_api.v1 import common_pb2
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1 import vqa_service_pb2 as pb
from mplug_api.v1.vqa_service_pb2_grpc import VqaServiceStub
from services.generation_servers import golden_image, golden_model, golden_options, ids_of, model_server
from services.pets import fails
from services.serving import fields_of, image_input, picture, reason_of

Code = grpc.StatusCode


@pytest.fixture
async def golden(tmp_path: Path) -> AsyncIterator[tuple[GoldenCase, Any]]:
    """The reference's answering model. Any: the stub."""
    case, model = golden_model("vqa_base", tmp_path, "vqa")
    async with model_server(tmp_path, {"vqa": model}, services=("vqa",)) as (_, channel):
        yield case, VqaServiceStub(channel)


@pytest.fixture
async def tiny_stub(tmp_path: Path) -> AsyncIterator[Any]:
    """Of the tiny model. Any: the stub."""
    async with model_server(tmp_path, {"vqa": tiny(VqaModel)}, services=("vqa",)) as (_, channel):
        yield VqaServiceStub(channel)


def question(number: int, text: str = "piece7 piece8") -> pb.Question:
    return pb.Question(image=image_input(number), question=text)


def golden_questions(case: GoldenCase) -> list[pb.Question]:
    """The stored ones, whose vocabulary's words are their ids."""
    rows = zip(case.io["question_input_ids"], case.io["question_attention_mask"].bool(), strict=True)
    texts = [" ".join(f"piece{token}" for token in ids[mask].tolist()[1:-1]) for ids, mask in rows]
    return [pb.Question(image=golden_image(place), question=text) for place, text in enumerate(texts)]


async def test_answers_are_the_reference_ones_whatever_the_settings(golden: tuple[GoldenCase, Any]) -> None:
    case, stub = golden
    questions = golden_questions(case)
    for name, stored in case.described["generation"].items():
        options = golden_options(stored)
        response = await stub.Answer(pb.AnswerRequest(questions=questions, generate=options))
        assert [ids_of(result.answers) for result in response.results] == stored["ids"], name
        for number, expected in enumerate(stored["ids"]):
            request = pb.StreamAnswerRequest(question=questions[number], options=options)
            *_, last = [each async for each in stub.StreamAnswer(request)]
            assert ids_of(last.progress.finished) == expected, name
    default = await stub.Answer(pb.AnswerRequest(questions=questions))
    assert [ids_of(each.answers) for each in default.results] == case.described["generation"]["default_top1"][
        "ids"
    ]


@torch.inference_mode()
def expected_ranks(number: int, texts: list[str], k: int) -> Any:
    """By the model itself. Any: a tuple of RankedAnswer."""
    model = tiny(VqaModel)
    pixels = torch.from_numpy(to_pixels(decode_image(picture(number)), 32))[None]
    ids = torch.from_numpy(model.tokenizer.encode("piece7 piece8").ids)[None]
    state = model.start_decoding(model.encode_image(pixels), ids, torch.ones_like(ids).bool())
    answers = [model.tokenizer.encode(text).ids.tolist() for text in texts]
    return rank_answers(model.text_decoder, lambda _: state, answers, num_items=1, k=k)[0]


async def test_the_best_of_given_answers(tiny_stub: Any) -> None:
    texts = ["piece3", "piece4 piece5", "piece6", "piece20 piece21 piece22"]
    request = pb.AnswerRequest(questions=[question(1), question(2)], rank=pb.RankOptions(answers=texts, k=3))
    response = await tiny_stub.Answer(request)
    for number, result in zip((1, 2), response.results, strict=True):
        expected = expected_ranks(number, texts, 3)
        assert [each.index for each in result.ranked.answers] == [each.index for each in expected]
        assert [each.probability for each in result.ranked.answers] == pytest.approx(
            [each.probability for each in expected], abs=1e-4
        )
        assert all(each.text == texts[each.index] for each in result.ranked.answers)


async def test_a_bad_question_harms_no_neighbour(tiny_stub: Any) -> None:
    questions = [
        question(1),
        question(1, ""),
        question(1, "  "),
        pb.Question(image=common_pb2.ImageInput(data=b"no image"), question="piece7"),
        pb.Question(question="piece7"),
        question(1, "x" * 300_000),
        question(2, "piece7 " * 500),
    ]
    response = await tiny_stub.Answer(pb.AnswerRequest(questions=questions))
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds == ["answers", *["error"] * 5, "answers"]
    errors = [result.error for result in response.results[1:6]]
    assert [reason_of(error) for error in errors] == [
        "EMPTY_TEXT",
        "EMPTY_TEXT",
        "IMAGE_UNKNOWN_FORMAT",
        "EMPTY_IMAGE",
        "TEXT_TOO_LONG",
    ]
    assert [fields_of(error) for error in errors] == [
        ["questions[1].question"],
        ["questions[2].question"],
        ["questions[3].image"],
        ["questions[4].image"],
        ["questions[5].question"],
    ]
    assert list(response.truncated_questions) == [6]


BAD_RANKS = [
    (pb.RankOptions(), "rank.answers"),
    (pb.RankOptions(answers=["piece1", " "]), "rank.answers[1]"),
    (pb.RankOptions(answers=["piece1", "piece2 " * 500]), "rank.answers[1]"),
    (pb.RankOptions(answers=["piece1"], k=0), "rank.k"),
    (pb.RankOptions(answers=["piece1"], k=-3), "rank.k"),
    (pb.RankOptions(answers=["piece1"] * 4097), "rank.answers"),
]


async def test_what_cannot_be_is_named(tiny_stub: Any) -> None:
    for rank, field in BAD_RANKS:
        request = pb.AnswerRequest(questions=[question(1)], rank=rank)
        assert fields_of(await fails(tiny_stub.Answer(request), Code.INVALID_ARGUMENT)) == [field]
    options = gen.GenerationOptions(max_length=0)
    request = pb.AnswerRequest(questions=[question(1)], generate=options)
    status = await fails(tiny_stub.Answer(request), Code.INVALID_ARGUMENT)
    assert fields_of(status) == ["generate.max_length"]
    stream = tiny_stub.StreamAnswer(pb.StreamAnswerRequest(question=question(1, "")))
    assert fields_of(await fails(stream.read(), Code.INVALID_ARGUMENT)) == ["question.question"]
