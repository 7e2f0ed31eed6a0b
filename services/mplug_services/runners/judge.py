"""Texts to labels, spans and missing words; a batch is one quantum."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

from mplug.plug import PlugClassifier
from mplug.structbert import Classifier, EntailmentClassifier, FaqAnswerer, Tagger, WordFiller
from mplug.structbert import KnownQuestions as ReadQuestions
from mplug.text.pairs import Text
from mplug.text_classifier import Classified, Filled, Tagged
from mplug_services.runners.runner import Alive, Deliver
from mplug_services.text_work import (
    FillMasks,
    GivenLabels,
    JudgeText,
    KnownQuestions,
    Mode,
    OwnLabels,
    OwnSpans,
)
from mplug_services.work import NonFiniteError, WorkItem, WorkKind

logger = logging.getLogger(__name__)

JudgingModel = Classifier | PlugClassifier | EntailmentClassifier | Tagger | FaqAnswerer | WordFiller
Judged = Classified | Tagged | Filled

REMEMBERED = 4
"""Lists of known questions that a model keeps, as it read them."""


def modes_of(model: JudgingModel) -> tuple[type[Mode], ...]:
    """Ways in which a model judges texts."""
    if isinstance(model, EntailmentClassifier):
        return OwnLabels, GivenLabels
    if isinstance(model, FaqAnswerer):
        return (KnownQuestions,)
    if isinstance(model, WordFiller):
        return (FillMasks,)
    return (OwnSpans,) if isinstance(model, Tagger) else (OwnLabels,)


class JudgeRunner:
    """Judges texts.

    Args:
        models: by task.
    """

    kind = WorkKind.JUDGE

    def __init__(self, models: Mapping[str, JudgingModel]) -> None:
        self._models = models
        self._known: dict[KnownQuestions, ReadQuestions] = {}
        """As they were read, the list asked for last at the end."""

    def run(self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive) -> Iterator[None]:
        """One quantum for the batch of `JudgeText`, or where it fails one for each item; see `Runner`."""
        texts = [item for item in items if isinstance(item, JudgeText)]
        try:
            for place, found in enumerate(self._judge(texts)):
                deliver(place, _finite(found))
            return
        except Exception as error:
            if len(texts) == 1:
                deliver(0, error)
                return
            logger.warning("judging %d texts failed; each is tried alone", len(texts), exc_info=True)
        for place, item in enumerate(texts):
            yield
            if alive(place):
                deliver(place, self._alone(item))

    def warm_up(self) -> list[list[WorkItem]]:
        """One text for each model that needs nothing else."""
        return [
            [JudgeText(task=task, text="warm up", mode=mode(), tokens=4)]
            for task, model in self._models.items()
            for mode in (OwnLabels, OwnSpans)
            if mode in modes_of(model)
        ]

    def _alone(self, item: JudgeText) -> Judged | Exception:
        try:
            return _finite(self._judge([item])[0])
        except Exception as error:
            return error

    def _judge(self, items: Sequence[JudgeText]) -> Sequence[Judged]:
        model, mode = self._models[items[0].task], items[0].mode
        texts = [item.text for item in items]
        match model, mode:
            case EntailmentClassifier(), GivenLabels():
                return model.classify(
                    _plain(texts), mode.labels, template=mode.template, multi_label=mode.multi_label
                )
            case FaqAnswerer(), KnownQuestions():
                return model.answer(_plain(texts), self._remember(model, mode))
            case WordFiller(), FillMasks():
                return model.fill(_plain(texts), top_k=mode.top_k)
            case Tagger(), OwnSpans():
                return model.tag(_plain(texts))
            case EntailmentClassifier(), OwnLabels():
                return model.nli.classify(texts)
            case ((Classifier() | PlugClassifier()), OwnLabels()):
                return model.classify(texts)
        raise AssertionError(f"{model.name} judges nothing by {mode}")

    def _remember(self, model: FaqAnswerer, questions: KnownQuestions) -> ReadQuestions:
        read = self._known.pop(questions, None) or model.remember(questions.questions)
        self._known[questions] = read
        for oldest in [*self._known][:-REMEMBERED]:
            del self._known[oldest]
        return read


def _plain(texts: Sequence[Text]) -> list[str]:
    plain = [text for text in texts if isinstance(text, str)]
    assert len(plain) == len(texts), "pairs are refused before"
    return plain


def _finite(found: Judged) -> Judged | NonFiniteError:
    if isinstance(found, Classified):
        scores = [each.score for each in found.scores]
    elif isinstance(found, Tagged):
        scores = [each.score for each in found.spans]
    else:
        scores = [each.score for mask in found.masks for each in mask]
    if all(map(math.isfinite, scores)):
        return found
    return NonFiniteError("the model gave NaN or infinity for this text")
