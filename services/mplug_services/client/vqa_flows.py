"""Flows over VqaService."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from mplug_api.v1 import vqa_service_pb2 as pb
from mplug_services.client.batches import readable
from mplug_services.client.calls import Call, Flow, ask, chunks
from mplug_services.client.errors import ClientError, from_status
from mplug_services.client.explanation_wire import explain_to_wire, explained_limits, heat_maps_from_wire
from mplug_services.client.generation_types import (
    ExplainOptions,
    GenerationOptions,
    Question,
    RankOutcome,
    TextOutcome,
)
from mplug_services.client.generation_wire import (
    options_to_wire,
    question_to_wire,
    ranked_from_wire,
    seed_from_wire,
    texts_from_wire,
)
from mplug_services.client.model_flows import LimitsCache
from mplug_services.client.types import ImageSource

OutcomeT = TypeVar("OutcomeT", TextOutcome, RankOutcome)


def answer(
    questions: Sequence[Question],
    options: GenerationOptions | None,
    explain: ExplainOptions | None,
    model: str,
    cache: LimitsCache,
) -> Flow[list[TextOutcome]]:
    """Answers questions."""
    mode = pb.AnswerRequest(generate=options_to_wire(options), explain=explain_to_wire(explain), model=model)
    return (yield from _answer(questions, mode, explain, cache, _text_outcome, _text_refusal))


def rank_answers(
    questions: Sequence[Question],
    answers: Sequence[str],
    k: int | None,
    explain: ExplainOptions | None,
    model: str,
    cache: LimitsCache,
) -> Flow[list[RankOutcome]]:
    """Orders a list of answers for each question."""
    rank = pb.RankOptions(answers=answers, k=k)
    mode = pb.AnswerRequest(rank=rank, explain=explain_to_wire(explain), model=model)
    return (yield from _answer(questions, mode, explain, cache, _rank_outcome, _rank_refusal))


def stream_answer(image: ImageSource, question: str, options: GenerationOptions | None, model: str) -> Call:
    """The call that answers one question, message by message."""
    request = pb.StreamAnswerRequest(
        question=question_to_wire(Question(image, question)), options=options_to_wire(options), model=model
    )
    return Call("VqaService", "StreamAnswer", request, pb.StreamAnswerResponse)


def _answer(
    questions: Sequence[Question],
    mode: pb.AnswerRequest,
    explain: ExplainOptions | None,
    cache: LimitsCache,
    outcome: Callable[[pb.AnswerResult, int, bool], OutcomeT],
    refusal: Callable[[int, ClientError], OutcomeT],
) -> Flow[list[OutcomeT]]:
    limits = explained_limits((yield from cache.get()), explain)
    outcomes: list[OutcomeT] = []

    def refuse(index: int, error: ClientError) -> None:
        outcomes.append(refusal(index, error))

    items = readable(questions, question_to_wire, limits, refuse)
    # Every chunk carries the options, a list of answers among them.
    room = limits.max_message_bytes - mode.ByteSize()
    for chunk in chunks(items, lambda item: item[1].ByteSize(), limits, room=room):
        request = pb.AnswerRequest(questions=[question for _, question in chunk])
        request.MergeFrom(mode)
        response = yield from ask("VqaService", "Answer", request, pb.AnswerResponse)
        truncated = set(response.truncated_questions)
        outcomes += [
            outcome(result, chunk[result.index][0], result.index in truncated) for result in response.results
        ]
    return sorted(outcomes, key=lambda each: each.index)


def _text_outcome(result: pb.AnswerResult, index: int, truncated: bool) -> TextOutcome:
    if result.HasField("error"):
        return TextOutcome(index, truncated=truncated, error=from_status(result.error))
    texts, seed = texts_from_wire(result.answers), seed_from_wire(result.answers)
    return TextOutcome(index, texts, seed, truncated, heat_maps=heat_maps_from_wire(result.heat_maps))


def _rank_outcome(result: pb.AnswerResult, index: int, truncated: bool) -> RankOutcome:
    if result.HasField("error"):
        return RankOutcome(index, truncated=truncated, error=from_status(result.error))
    heat_maps = heat_maps_from_wire(result.heat_maps)
    return RankOutcome(index, ranked_from_wire(result.ranked), truncated, heat_maps=heat_maps)


def _text_refusal(index: int, error: ClientError) -> TextOutcome:
    return TextOutcome(index, error=error)


def _rank_refusal(index: int, error: ClientError) -> RankOutcome:
    return RankOutcome(index, error=error)
