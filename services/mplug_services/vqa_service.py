"""VqaService: questions about pictures to answers, each with its own result."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc import aio

from mplug_api.v1 import generation_pb2
from mplug_api.v1 import vqa_service_pb2 as pb
from mplug_api.v1.vqa_service_pb2_grpc import VqaServiceServicer
from mplug_services import wire
from mplug_services.config import ServeConfig
from mplug_services.errors import ServiceError, error_status, invalid_argument, to_failure
from mplug_services.generation_options import GenerationSettings, read_options
from mplug_services.generator import Generator, PictureQuestion, TextBatch, TextOutcome
from mplug_services.image_reader import ImageReader
from mplug_services.model_choice import ModelChoice
from mplug_services.wire_explanation import read_explain, write_heat_map
from mplug_services.wire_generation import write_progress, write_texts

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it

DEFAULT_K = 128
"""X-PLUG's `k_test`."""


class VqaService(VqaServiceServicer):
    """The servicer.

    Args:
        models: where the answering model is.
        reader: reads pictures that are named by uri.
        config: limits.
    """

    def __init__(self, models: ModelChoice, reader: ImageReader, config: ServeConfig) -> None:
        self._models = models
        self._reader = reader
        self._config = config

    async def Answer(  # noqa: N802 - the method's name in the API
        self, request: pb.AnswerRequest, context: Context
    ) -> pb.AnswerResponse:
        """Answer questions, in words of the model's own or with the best of a list."""
        started = time.monotonic()
        generator = await self._models.answerer(request.model)
        ranks = request.WhichOneof("mode") == "rank"
        settings = None if ranks else self._read_options(request.generate, "generate", generator)
        k = self._read_rank(request.rank) if ranks else 0
        wire.check_batch(len(request.questions), "questions", self._config.max_batch_size)
        limit = self._config.max_explained_items
        explain = read_explain(request, len(request.questions), "questions", generator.model, limit)
        outcomes: dict[int, TextOutcome] = {}
        questions: dict[int, PictureQuestion] = {}
        for index, question in enumerate(request.questions):
            try:
                questions[index] = await self._read_question(question, f"questions[{index}]")
            except Exception as error:
                outcomes[index] = TextOutcome(error=error)
        deadline = wire.read_deadline(context)
        given = list(questions.values())
        if settings is None:
            batch = await generator.rank(
                given, request.rank.answers, k, field="rank.answers", deadline=deadline
            )
        else:
            batch = await generator.answer(given, settings, deadline=deadline)
        if explain is not None:
            batch = await generator.explainer.explain(
                batch,
                [each.image for each in given],
                explain,
                questions=[each.question for each in given],
                answers=request.rank.answers,
                deadline=deadline,
            )
        outcomes |= dict(zip(questions, batch.outcomes, strict=True))
        return self._respond(request, outcomes, batch, settings, generator, started)

    async def StreamAnswer(  # noqa: N802
        self, request: pb.StreamAnswerRequest, context: Context
    ) -> AsyncIterator[pb.StreamAnswerResponse]:
        """Answer one question while the answer grows."""
        generator = await self._models.answerer(request.model)
        settings = self._read_options(request.options, "options", generator)
        question = await self._read_question(request.question, "question")
        model = wire.write_model(generator.model)
        steps = generator.stream_answer(question, settings, deadline=wire.read_deadline(context))
        async with aclosing(steps):
            async for step in steps:
                progress = write_progress(step, settings.shown_seed, "question.image")
                yield pb.StreamAnswerResponse(progress=progress, model=model)

    def _read_options(
        self, options: generation_pb2.GenerationOptions, field: str, generator: Generator
    ) -> GenerationSettings:
        return read_options(options, generator.decoder, field, max_sequences=self._config.max_sequences)

    def _read_rank(self, rank: pb.RankOptions) -> int:
        """Check the answers; how many to score in full."""
        if not rank.answers:
            raise invalid_argument("rank.answers", "give at least one answer", reason="EMPTY_BATCH")
        limit = self._config.max_answers
        if len(rank.answers) > limit:
            raise invalid_argument(
                "rank.answers", f"{len(rank.answers)} answers; the limit is {limit}", reason="BATCH_TOO_LARGE"
            )
        for index, answer in enumerate(rank.answers):
            wire.check_text(answer, f"rank.answers[{index}]", self._config.max_text_bytes)
        if not rank.HasField("k"):
            return DEFAULT_K
        return wire.read_limited(max(rank.k, -1) or -1, "rank.k", DEFAULT_K, limit)

    async def _read_question(self, question: pb.Question, field: str) -> PictureQuestion:
        wire.check_text(question.question, f"{field}.question", self._config.max_text_bytes)
        try:
            image = await self._reader.read(wire.read_image(question.image, f"{field}.image"))
        except Exception as error:
            raise ServiceError(to_failure(error, field=f"{field}.image")) from error
        return PictureQuestion(image, question.question)

    def _respond(
        self,
        request: pb.AnswerRequest,
        outcomes: dict[int, TextOutcome],
        batch: TextBatch,
        settings: GenerationSettings | None,
        generator: Generator,
        started: float,
    ) -> pb.AnswerResponse:
        seed = None if settings is None else settings.shown_seed
        return pb.AnswerResponse(
            results=[
                _result(index, outcomes[index], seed, request.rank.answers)
                for index in range(len(request.questions))
            ],
            model=wire.write_model(generator.model),
            timings=wire.write_timings(batch.seconds, started),
            truncated_questions=sorted(index for index, outcome in outcomes.items() if outcome.truncated),
        )


# Any: protobuf's repeated field.
def _result(index: int, outcome: TextOutcome, seed: int | None, answers: Any) -> pb.AnswerResult:
    if outcome.error is not None:
        return pb.AnswerResult(
            index=index, error=error_status(outcome.error, field=f"questions[{index}].image")
        )
    heat_maps = [write_heat_map(each) for each in outcome.heat_maps]
    if outcome.ranked is None:
        return pb.AnswerResult(index=index, answers=write_texts(outcome, seed), heat_maps=heat_maps)
    ranked = outcome.ranked
    best = [
        pb.RankedAnswer(index=place, text=answers[place], probability=probability)
        for place, probability in zip(ranked.indices, ranked.probabilities, strict=True)
    ]
    return pb.AnswerResult(index=index, ranked=pb.RankedAnswers(answers=best), heat_maps=heat_maps)
