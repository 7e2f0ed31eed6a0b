"""Generated texts as protobuf messages."""

from __future__ import annotations

from mplug_api.v1 import generation_pb2 as pb
from mplug_services.errors import ServiceError, to_failure
from mplug_services.generator import TextOutcome

_REASONS = {
    "": pb.FINISH_REASON_UNSPECIFIED,
    "end": pb.FINISH_REASON_END,
    "length": pb.FINISH_REASON_LENGTH,
    "stop": pb.FINISH_REASON_STOP,
}


def write_texts(outcome: TextOutcome, seed: int | None) -> pb.GeneratedTexts:
    """Texts of one item; `seed` is shown where there is one."""
    texts = [
        pb.GeneratedText(
            text=text.text,
            score=text.score,
            token_ids=text.ids,
            log_probs=text.log_probs,
            finish_reason=_REASONS[text.finish_reason],
        )
        for text in outcome.texts
    ]
    return pb.GeneratedTexts(texts=texts, seed=seed)


def write_progress(step: str | TextOutcome, seed: int | None, field: str) -> pb.GenerationProgress:
    """One message of a stream.

    Raises:
        ServiceError: the item failed; with the path of its field.
    """
    if isinstance(step, str):
        return pb.GenerationProgress(partial_text=step)
    if step.error is not None:
        raise ServiceError(to_failure(step.error, field=field)) from step.error
    return pb.GenerationProgress(finished=write_texts(step, seed))
