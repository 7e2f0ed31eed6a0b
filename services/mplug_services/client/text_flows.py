"""Flows over TextService."""

from collections.abc import Sequence

from mplug_api.v1 import text_service_pb2 as pb
from mplug_services.client.calls import Call, Flow, ask, chunks
from mplug_services.client.errors import InvalidRequestError, from_status
from mplug_services.client.generation_types import GenerationOptions, TextOutcome, TextProgress
from mplug_services.client.generation_wire import (
    options_to_wire,
    progress_from_wire,
    seed_from_wire,
    texts_from_wire,
)
from mplug_services.client.model_flows import LimitsCache
from mplug_services.client.text_types import (
    ClassifyOutcome,
    FillOutcome,
    KnownQuestion,
    LabelScore,
    MaskCandidate,
    TextSource,
    TextSpan,
)


def generate(
    texts: Sequence[str],
    options: GenerationOptions | None,
    stop: Sequence[str],
    log_probs: bool,
    model: str,
    cache: LimitsCache,
) -> Flow[list[TextOutcome]]:
    """Writes from texts."""
    common = pb.GenerateRequest(options=options_to_wire(options), stop=stop, log_probs=log_probs, model=model)
    limits = yield from cache.get()
    room = limits.max_message_bytes - common.ByteSize()
    outcomes: list[TextOutcome] = []
    for chunk in chunks(texts, _most_bytes, limits, room=room):
        request = pb.GenerateRequest(texts=chunk)
        request.MergeFrom(common)
        response = yield from ask("TextService", "Generate", request, pb.GenerateResponse)
        truncated, first = set(response.truncated_texts), len(outcomes)
        outcomes += [
            _text_outcome(result, first + result.index, result.index in truncated)
            for result in response.results
        ]
    return outcomes


def stream_generate(
    text: str, options: GenerationOptions | None, stop: Sequence[str], log_probs: bool, model: str
) -> Call:
    """The call that writes from one text, message by message."""
    request = pb.StreamGenerateRequest(
        text=text, options=options_to_wire(options), stop=stop, log_probs=log_probs, model=model
    )
    return Call("TextService", "StreamGenerate", request, pb.StreamGenerateResponse)


def text_progress(message: pb.StreamGenerateResponse) -> TextProgress:
    """One message of a stream."""
    progress = progress_from_wire(message.progress)
    return TextProgress(progress.text, progress.texts, progress.seed, message.truncated)


def classify(
    texts: Sequence[TextSource],
    labels: Sequence[str],
    template: str,
    multi_label: bool,
    known_questions: Sequence[KnownQuestion],
    model: str,
    cache: LimitsCache,
) -> Flow[list[ClassifyOutcome]]:
    """Judges texts or pairs of texts.

    Raises:
        InvalidRequestError: Labels and known questions together.
    """
    common = _mode(labels, template, multi_label, known_questions)
    common.model = model
    limits = yield from cache.get()
    room = limits.max_message_bytes - common.ByteSize()
    outcomes: list[ClassifyOutcome] = []
    for chunk in chunks(map(_item, texts), lambda item: item.ByteSize(), limits, room=room):
        request = pb.ClassifyRequest(items=chunk)
        request.MergeFrom(common)
        response = yield from ask("TextService", "Classify", request, pb.ClassifyResponse)
        truncated, first = set(response.truncated_items), len(outcomes)
        outcomes += [
            _classify_outcome(result, first + result.index, result.index in truncated)
            for result in response.results
        ]
    return outcomes


def fill_mask(
    texts: Sequence[str], top_k: int | None, model: str, cache: LimitsCache
) -> Flow[list[FillOutcome]]:
    """Fills the masks of texts."""
    limits = yield from cache.get()
    outcomes: list[FillOutcome] = []
    for chunk in chunks(texts, _most_bytes, limits):
        request = pb.FillMaskRequest(texts=chunk, top_k=top_k, model=model)
        response = yield from ask("TextService", "FillMask", request, pb.FillMaskResponse)
        truncated, first = set(response.truncated_texts), len(outcomes)
        outcomes += [
            _fill_outcome(result, first + result.index, result.index in truncated)
            for result in response.results
        ]
    return outcomes


def _most_bytes(text: str) -> int:
    # A code point takes at most four bytes of UTF-8.
    return 4 * len(text)


def _mode(
    labels: Sequence[str], template: str, multi_label: bool, known_questions: Sequence[KnownQuestion]
) -> pb.ClassifyRequest:
    if labels and known_questions:
        raise InvalidRequestError("texts are judged by labels or by known questions: give one of both")
    if labels:
        zero_shot = pb.ZeroShotOptions(labels=labels, template=template, multi_label=multi_label)
        return pb.ClassifyRequest(zero_shot=zero_shot)
    if known_questions:
        questions = [pb.KnownQuestion(text=each.text, label=each.label) for each in known_questions]
        return pb.ClassifyRequest(known_questions=pb.KnownQuestions(questions=questions))
    return pb.ClassifyRequest()


def _item(text: TextSource) -> pb.ClassifyItem:
    if isinstance(text, str):
        return pb.ClassifyItem(text=text)
    first, second = text
    return pb.ClassifyItem(text=first, text_pair=second)


def _text_outcome(result: pb.GenerateResult, index: int, truncated: bool) -> TextOutcome:
    if result.HasField("error"):
        return TextOutcome(index, truncated=truncated, error=from_status(result.error))
    return TextOutcome(index, texts_from_wire(result.texts), seed_from_wire(result.texts), truncated)


def _classify_outcome(result: pb.ClassifyResult, index: int, truncated: bool) -> ClassifyOutcome:
    if result.HasField("error"):
        return ClassifyOutcome(index, truncated=truncated, error=from_status(result.error))
    labels = tuple(LabelScore(each.label, each.score) for each in result.labels.scores)
    spans = tuple(
        TextSpan(each.label, each.start, each.end, each.text, each.score) for each in result.spans.spans
    )
    return ClassifyOutcome(index, labels, spans, truncated)


def _fill_outcome(result: pb.FillMaskResult, index: int, truncated: bool) -> FillOutcome:
    if result.HasField("error"):
        return FillOutcome(index, truncated=truncated, error=from_status(result.error))
    masks = tuple(
        tuple(MaskCandidate(each.piece, each.score) for each in mask.candidates)
        for mask in result.filled.masks
    )
    return FillOutcome(index, result.filled.text, masks, truncated)
