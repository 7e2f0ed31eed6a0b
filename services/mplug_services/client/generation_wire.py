"""Between the client's values and the messages of captions, answers and reranking, both ways."""

from collections.abc import Mapping

from mplug_api.v1 import generation_pb2 as pb
from mplug_api.v1 import search_service_pb2, vqa_service_pb2
from mplug_services.client.generation_types import (
    FinishReason,
    GeneratedText,
    GenerationOptions,
    Question,
    RankedAnswer,
    ScoreFusion,
    TextProgress,
)
from mplug_services.client.wire import image_to_wire

_FUSION = {
    ScoreFusion.SERVER_DEFAULT: search_service_pb2.SCORE_FUSION_UNSPECIFIED,
    ScoreFusion.MATCH: search_service_pb2.SCORE_FUSION_MATCH,
    ScoreFusion.SUM: search_service_pb2.SCORE_FUSION_SUM,
    ScoreFusion.RECIPROCAL_RANK: search_service_pb2.SCORE_FUSION_RECIPROCAL_RANK,
}

_REASONS: Mapping[int, FinishReason] = {
    pb.FINISH_REASON_END: "end",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_STOP: "stop",
}


def fusion_to_wire(fusion: ScoreFusion) -> search_service_pb2.ScoreFusion.ValueType:
    """What orders hits that were reranked."""
    return _FUSION[fusion]


def options_to_wire(options: GenerationOptions | None) -> pb.GenerationOptions | None:
    """Settings of one call; what is None is left out."""
    if options is None:
        return None
    message = pb.GenerationOptions(
        max_length=options.max_length,
        min_length=options.min_length,
        num_results=options.num_results,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        deterministic=options.deterministic,
    )
    match options.effective_method:
        case "beam":
            message.beam_search.CopyFrom(
                pb.BeamSearch(beam_size=options.beam_size, length_penalty=options.length_penalty)
            )
        case "greedy":
            message.greedy.SetInParent()
        case "sample":
            message.sampling.CopyFrom(
                pb.Sampling(
                    temperature=options.temperature,
                    top_k=options.top_k,
                    top_p=options.top_p,
                    seed=options.seed,
                )
            )
        case None:
            pass
    return message


def question_to_wire(question: Question) -> vqa_service_pb2.Question:
    """A question; a picture given as a file is read here."""
    return vqa_service_pb2.Question(image=image_to_wire(question.image), question=question.question)


def texts_from_wire(message: pb.GeneratedTexts) -> tuple[GeneratedText, ...]:
    """Texts, best first."""
    return tuple(
        GeneratedText(
            text.text,
            text.score,
            tuple(text.token_ids),
            tuple(text.log_probs),
            _REASONS.get(text.finish_reason, ""),
        )
        for text in message.texts
    )


def seed_from_wire(message: pb.GeneratedTexts) -> int | None:
    """The seed that texts were drawn with."""
    return message.seed if message.HasField("seed") else None


def progress_from_wire(message: pb.GenerationProgress) -> TextProgress:
    """One message of a stream."""
    if message.HasField("finished"):
        texts = texts_from_wire(message.finished)
        return TextProgress(texts[0].text if texts else "", texts, seed_from_wire(message.finished))
    return TextProgress(message.partial_text)


def ranked_from_wire(message: vqa_service_pb2.RankedAnswers) -> tuple[RankedAnswer, ...]:
    """Answers of a list, best first."""
    return tuple(RankedAnswer(answer.index, answer.text, answer.probability) for answer in message.answers)
