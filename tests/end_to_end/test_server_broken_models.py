"""A real server whose model fails while it writes: NaN, no memory, one bad item; neighbours and next calls are well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from torch import Tensor

from golden.mplug_cases import tiny
from mplug.captioning import CaptionModel
from mplug.decoder_state import DecoderState
from mplug.text_decoder import TextDecoder
from mplug.vqa import VqaModel
from mplug_api.v1 import caption_service_pb2 as caption_pb
from mplug_api.v1 import generation_pb2 as gen
from mplug_api.v1 import vqa_service_pb2 as vqa_pb
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.vqa_service_pb2_grpc import VqaServiceStub
from mplug_services.engine import ModelWorker
from mplug_services.work import NonFiniteError
from services.generation_servers import ids_of, model_server
from services.pets import fails
from services.serving import image_input, make_scheduler, reason_of

Code = grpc.StatusCode
OPTIONS = {
    "beams": gen.GenerationOptions(min_length=6, max_length=8, num_results=2),
    "sampling": gen.GenerationOptions(
        min_length=6, max_length=8, num_results=2, sampling=gen.Sampling(seed=3)
    ),
}
every_method = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
SEEDS = (1, 2, 3)
ONE_PICTURE = 5
"""The most sequences of one picture, and fewer than of three pictures, by any of the methods."""


class FailingDecoder(TextDecoder):
    """The tiny model's decoder, that raises when it is told to."""

    fault: Callable[[int, int], Exception | None] | None = None
    """From the number of the step, counted from where the fault was set, and its sequences."""
    steps = 0

    def step(self, ids_SL: Tensor, state: DecoderState, *, lengths_S: Tensor | None = None) -> Tensor:
        self.steps += 1
        error = None if self.fault is None else self.fault(self.steps, state.num_sequences)
        if error is not None:
            raise error
        return super().step(ids_SL, state, lengths_S=lengths_S)

    def fail(self, fault: Callable[[int, int], Exception | None] | None) -> None:
        self.steps, self.fault = 0, fault


class BadPictureModel(CaptionModel):
    """The tiny model, whose tower gives NaN, or raises, for pictures whose first pixel has a value."""

    bad: int | None = None
    raises = False

    def encode_image(self, pixels_B3RR: Tensor) -> Tensor:
        bad_B = pixels_B3RR[:, 0, 0, 0].int() == (-1 if self.bad is None else self.bad)
        if self.raises and bad_B.any():
            raise RuntimeError("the tower cannot bear this picture")
        return super().encode_image(pixels_B3RR).masked_fill(bad_B[:, None, None], torch.nan)


def failing_model() -> tuple[CaptionModel, FailingDecoder]:
    model = tiny(CaptionModel)
    assert model.config.text_decoder is not None
    decoder = FailingDecoder(model.config.text_decoder).eval()
    decoder.load_state_dict(model.text_decoder.state_dict())
    model.text_decoder = decoder
    return model, decoder


async def captions(stub: Any, options: gen.GenerationOptions, *seeds: int) -> list[Any]:
    """Ids of each picture, or its error's code and reason."""
    request = caption_pb.CaptionRequest(images=[image_input(seed) for seed in seeds], options=options)
    return [
        (result.error.code, reason_of(result.error)) if result.HasField("error") else ids_of(result.captions)
        for result in (await stub.Caption(request)).results
    ]


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("no memory is left")


def allocator_failed() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


@every_method
@pytest.mark.parametrize("error", [out_of_memory, allocator_failed])
async def test_a_batch_that_memory_does_not_hold_is_written_one_by_one(
    tmp_path: Path, options: gen.GenerationOptions, error: Callable[[], Exception]
) -> None:
    model, decoder = failing_model()
    async with model_server(tmp_path, {"caption": model}, services=("caption",)) as (_, channel):
        stub: Any = CaptionServiceStub(channel)
        alone = [(await captions(stub, options, seed))[0] for seed in SEEDS]
        decoder.fail(lambda step, sequences: error() if step >= 3 and sequences > ONE_PICTURE else None)
        assert await captions(stub, options, *SEEDS) == alone
        assert decoder.steps > 8, "the batch was begun and given up"
        decoder.fail(None)
        assert await captions(stub, options, *SEEDS) == alone


@pytest.mark.parametrize("step", [1, 2, 5])
async def test_a_model_that_always_fails_says_so_and_serves_when_it_has_recovered(
    tmp_path: Path, step: int
) -> None:
    model, decoder = failing_model()
    options = OPTIONS["beams"]
    async with model_server(tmp_path, {"caption": model}, services=("caption",)) as (server, channel):
        stub: Any = CaptionServiceStub(channel)
        well = await captions(stub, options, *SEEDS)
        decoder.fail(lambda number, _: out_of_memory() if number >= step else None)
        failed = (Code.INTERNAL.value[0], "INTERNAL")
        assert await captions(stub, options, *SEEDS) == [failed] * 3
        decoder.fail(lambda number, _: out_of_memory() if number >= step else None)
        stream = stub.StreamCaption(caption_pb.StreamCaptionRequest(image=image_input(1), options=options))

        async def read_all() -> None:
            async for _ in stream:
                pass

        await fails(read_all(), Code.INTERNAL)
        assert server.queue_length == 0
        decoder.fail(None)
        assert await captions(stub, options, *SEEDS) == well


@every_method
@pytest.mark.parametrize("raises", [False, True], ids=["nan", "raises"])
async def test_a_bad_picture_is_an_error_of_its_own(
    tmp_path: Path, options: gen.GenerationOptions, raises: bool
) -> None:
    model = tiny(BadPictureModel)
    model.raises = raises
    async with model_server(tmp_path, {"caption": model}, services=("caption",)) as (_, channel):
        stub: Any = CaptionServiceStub(channel)
        alone = [(await captions(stub, options, seed))[0] for seed in SEEDS]
        model.bad = first_pixel(2)
        reason = "INTERNAL" if raises else "NON_FINITE"
        failed = (Code.INTERNAL.value[0], reason)
        assert await captions(stub, options, 1, 2, 3) == [alone[0], failed, alone[2]]
        assert await captions(stub, options, 2) == [failed]
        model.bad = None
        assert await captions(stub, options, *SEEDS) == alone


def first_pixel(seed: int) -> int:
    """Red of a picture's first pixel; others of these tests have another."""
    from services.rerank_servers import pixels_of
    from services.serving import picture

    values = {number: int(pixels_of(picture(number), 32)[0, 0, 0]) for number in SEEDS}
    assert len(set(values.values())) == len(values)
    return values[seed]


def nan_for_piece7() -> VqaModel:
    """One NaN among the weights: questions with the word piece7 meet it, others do not."""
    model = tiny(VqaModel)
    with torch.no_grad():
        model.text_encoder.embeddings.word.weight[7, 5] = torch.nan
    return model


@every_method
async def test_a_weight_that_is_nan_fails_the_questions_that_meet_it(
    tmp_path: Path, options: gen.GenerationOptions
) -> None:
    words = ["piece8", "piece9 piece7", "piece10 piece11"]
    questions = [vqa_pb.Question(image=image_input(1), question=word) for word in words]
    async with model_server(tmp_path, {"vqa": nan_for_piece7()}, services=("vqa",)) as (_, channel):
        stub: Any = VqaServiceStub(channel)
        ways: list[dict[str, Any]] = [
            {"generate": options},
            {"rank": vqa_pb.RankOptions(answers=["piece1", "piece2"])},
        ]
        for way in ways:
            response = await stub.Answer(vqa_pb.AnswerRequest(questions=questions, **way))
            kinds = [result.HasField("error") for result in response.results]
            assert kinds == [False, True, False]
            status = response.results[1].error
            assert (status.code, reason_of(status)) == (Code.INTERNAL.value[0], "NON_FINITE")
            assert "NaN or infinity" in status.message
            for place in (0, 2):
                (alone,) = (
                    await stub.Answer(vqa_pb.AnswerRequest(questions=[questions[place]], **way))
                ).results
                mine = response.results[place]
                assert ids_of(mine.answers) == ids_of(alone.answers)
                assert [each.index for each in mine.ranked.answers] == [
                    each.index for each in alone.ranked.answers
                ]
        stream = stub.StreamAnswer(vqa_pb.StreamAnswerRequest(question=questions[1], options=options))
        assert reason_of(await fails(stream.read(), Code.INTERNAL)) == "NON_FINITE", "no garbage on the way"


def test_a_model_of_nan_is_not_put_in_service() -> None:
    model = tiny(CaptionModel)
    with torch.no_grad():
        model.text_decoder.head.bias[9] = torch.nan
    worker = ModelWorker(lambda: {"caption": model}, make_scheduler())
    worker.start()
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        worker.ready.result(30)
    assert worker.stop(30)
