"""TextService's requests to what the services work with, and what these found to protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence

from mplug.text.pairs import Text
from mplug.text_classifier import Classified, Filled, Question, Tagged
from mplug_api.v1 import text_service_pb2 as pb
from mplug_services import wire
from mplug_services.errors import invalid_argument
from mplug_services.text_work import FillMasks, GivenLabels, KnownQuestions, Mode, OwnLabels, OwnSpans

MAX_STOPS = 16
"""Most stop texts of a request: each is looked for in every text at every step."""
DEFAULT_TOP_K = 5
MASK = "[MASK]"


def read_stop(stop: Sequence[str], max_bytes: int) -> tuple[str, ...]:
    """Texts before which a text ends."""
    if len(stop) > MAX_STOPS:
        raise invalid_argument(
            "stop", f"{len(stop)} texts; the limit is {MAX_STOPS}", reason="BATCH_TOO_LARGE"
        )
    for index, text in enumerate(stop):
        if not text:
            raise invalid_argument(
                f"stop[{index}]", "the text is empty; give at least a character", reason="EMPTY_TEXT"
            )
        _check_size(text, f"stop[{index}]", max_bytes)
    return tuple(stop)


def read_mode(
    request: pb.ClassifyRequest, modes: Sequence[type[Mode]], max_labels: int, max_bytes: int
) -> Mode:
    """How texts are to be judged, by a model that can do it in these ways."""
    match request.WhichOneof("mode"):
        case "zero_shot":
            return _read_labels(request.zero_shot, max_labels, max_bytes)
        case "known_questions":
            questions = request.known_questions.questions
            wire.check_batch(len(questions), "known_questions.questions", max_labels)
            for index, each in enumerate(questions):
                wire.check_text(each.text, f"known_questions.questions[{index}].text", max_bytes)
                wire.check_text(each.label, f"known_questions.questions[{index}].label", max_bytes)
            return KnownQuestions(tuple(Question(each.text, each.label) for each in questions))
        case _:
            return OwnSpans() if OwnSpans in modes else OwnLabels()


def _read_labels(options: pb.ZeroShotOptions, max_labels: int, max_bytes: int) -> GivenLabels:
    wire.check_batch(len(options.labels), "zero_shot.labels", max_labels)
    for index, label in enumerate(options.labels):
        wire.check_text(label, f"zero_shot.labels[{index}]", max_bytes)
    template = options.template if options.HasField("template") else "{}"
    if "{}" not in template:
        raise invalid_argument(
            "zero_shot.template", f"{template!r} has no {{}} for the label", reason="INVALID_TEMPLATE"
        )
    _check_size(template, "zero_shot.template", max_bytes)
    return GivenLabels(tuple(options.labels), template, options.multi_label)


def read_item(item: pb.ClassifyItem, mode: Mode, field: str, max_bytes: int) -> Text:
    """One text, or two that are read together."""
    wire.check_text(item.text, f"{field}.text", max_bytes)
    if not item.HasField("text_pair"):
        return item.text
    if not isinstance(mode, OwnLabels):
        raise invalid_argument(
            f"{field}.text_pair", "pairs are judged by the model's own labels alone", reason="UNEXPECTED_PAIR"
        )
    wire.check_text(item.text_pair, f"{field}.text_pair", max_bytes)
    return item.text, item.text_pair


def read_masked(text: str, field: str, max_bytes: int) -> str:
    """A text with something to fill."""
    wire.check_text(text, field, max_bytes)
    if MASK not in text:
        raise invalid_argument(
            field, f"there is no {MASK}; write it where a word is missing", reason="NO_MASK"
        )
    return text


def read_fill(request: pb.FillMaskRequest, max_top_k: int) -> FillMasks:
    """How masks are to be filled."""
    if not request.HasField("top_k"):
        return FillMasks(DEFAULT_TOP_K)
    return FillMasks(wire.read_limited(max(request.top_k, -1) or -1, "top_k", DEFAULT_TOP_K, max_top_k))


def write_labels(found: Classified) -> pb.LabelScores:
    """Labels, best first."""
    return pb.LabelScores(scores=[pb.LabelScore(label=each.label, score=each.score) for each in found.scores])


def write_spans(found: Tagged) -> pb.TextSpans:
    """Spans in the order of the text."""
    return pb.TextSpans(
        spans=[
            pb.TextSpan(label=each.label, start=each.start, end=each.end, text=each.text, score=each.score)
            for each in found.spans
        ]
    )


def write_filled(found: Filled) -> pb.FilledText:
    """A text whose masks were filled."""
    masks = [
        pb.MaskCandidates(
            candidates=[pb.MaskCandidate(piece=each.piece, score=each.score) for each in candidates]
        )
        for candidates in found.masks
    ]
    return pb.FilledText(text=found.text, masks=masks)


def _check_size(text: str, field: str, max_bytes: int) -> None:
    size = len(text.encode())
    if size > max_bytes:
        raise invalid_argument(field, f"{size} bytes; the limit is {max_bytes}", reason="TEXT_TOO_LONG")
