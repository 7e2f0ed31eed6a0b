"""Runs the tasks of text pipelines with a model on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mplug.errors import MplugError
from mplug.freezing import freeze
from mplug.loading import load
from mplug.plug import PlugGenerator, write_windows
from mplug.text.pairs import Text
from mplug.text_classifier import (
    Classified,
    Filled,
    MaskFiller,
    Question,
    QuestionAnswerer,
    Tagged,
    TextClassifier,
    TokenClassifier,
    ZeroShotClassifier,
)
from mplug.text_generator import TextGenerator
from mplug.text_loading import module_of
from mplug.text_tasks import GenerationTask
from mplug.text_writing import WrittenText, write


class LocalTextRunner:
    """A model on this machine, as a `mplug.text_pipelines.TextRunner`.

    Args:
        task: one of the values of `mplug.text_tasks.TEXT_TASKS`.
        source: as for `mplug.load`.
        device: likewise.
        dtype: likewise.

    Raises:
        CheckpointError: nothing loadable there, or a model that cannot do the task.
        MplugError: an unknown device or dtype.
    """

    def __init__(self, task: str, source: str | Path, *, device: str, dtype: str) -> None:
        self._task = task
        # Any: of the task's kind, see `_model_for`.
        self._model: Any = load(source, task=cast(GenerationTask, task), device=device, dtype=dtype)
        freeze(module_of(self._model))

    @property
    def model_name(self) -> str:
        """The configuration's name."""
        name: str = self._model.name
        return name

    @property
    def continues(self) -> bool:
        """Whether the model has no source that it reads apart from its text."""
        generator: TextGenerator[Any] = self._model_for("text-generation")
        return not generator.read("a").source

    # Any: fields of GenerationConfig, `stop`, `seeds` and `out_length`.
    def generate(self, texts: Sequence[str], settings: Mapping[str, Any]) -> list[tuple[WrittenText, ...]]:
        """Write from each text; arguments and errors as of `mplug.text_writing.write`.

        With `out_length` a PLUG writes by windows: as of `mplug.plug.windows.write_windows`.

        Raises:
            MplugError: `out_length`, and no PLUG.
            FloatingPointError: the model gave NaN or infinity.
        """
        generator: TextGenerator[Any] = self._model_for("text-generation")
        if "out_length" not in settings:
            written = write(generator, texts, **settings)
        elif isinstance(generator, PlugGenerator):
            written = write_windows(generator, texts, **settings)
        else:
            raise MplugError(
                f"out_length is {settings['out_length']}, and {self.model_name} writes without windows, which are "
                "PLUG's; give max_length, the most tokens of its texts"
            )
        _check_finite(one.score for each in written for one in each)
        return written

    def classify(
        self,
        texts: Sequence[Text],
        labels: Sequence[str] | None = None,
        template: str = "{}",
        multi_label: bool = False,
    ) -> list[Classified]:
        """Judge each text or pair; arguments and errors as of the protocols in `mplug.text_classifier`.

        Raises:
            MplugError: a pair, where labels are given.
            FloatingPointError: the model gave NaN or infinity.
        """
        if labels is None:
            judge: TextClassifier = self._model_for("text-classification")
            found = judge.classify(texts)
        else:
            asked: ZeroShotClassifier = self._model_for("zero-shot-classification")
            found = asked.classify(_single(texts), labels, template=template, multi_label=multi_label)
        _check_finite(label.score for each in found for label in each.scores)
        return found

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """Find the labelled spans of each text.

        Raises:
            FloatingPointError: the model gave NaN or infinity.
        """
        tagger: TokenClassifier = self._model_for("token-classification")
        found = tagger.tag(texts)
        _check_finite(span.score for each in found for span in each.spans)
        return found

    def fill(self, texts: Sequence[str], top_k: int = 5) -> list[Filled]:
        """Fill every [MASK] of each text; errors as of `mplug.text_classifier.MaskFiller`.

        Raises:
            FloatingPointError: the model gave NaN or infinity.
        """
        filler: MaskFiller = self._model_for("fill-mask")
        found = filler.fill(texts, top_k=top_k)
        _check_finite(candidate.score for each in found for mask in each.masks for candidate in mask)
        return found

    def answer(self, queries: Sequence[str], support: Sequence[Question]) -> list[Classified]:
        """Find which of the known questions each new one asks; errors as of `mplug.text_classifier.QuestionAnswerer`.

        Raises:
            FloatingPointError: the model gave NaN or infinity.
        """
        answerer: QuestionAnswerer = self._model_for("faq-question-answering")
        found = answerer.answer(queries, support)
        _check_finite(label.score for each in found for label in each.scores)
        return found

    def close(self) -> None:
        """Nothing to let go of."""

    def _model_for(self, task: str) -> Any:
        if task != self._task:
            raise MplugError(
                f"{self.model_name} was loaded for {self._task}; make another pipeline for {task}"
            )
        return self._model


def _single(texts: Sequence[Text]) -> list[str]:
    for text in texts:
        if not isinstance(text, str):
            raise MplugError(f"{text!r} is a pair; labels are given to single texts")
    return [text for text in texts if isinstance(text, str)]


def _check_finite(scores: Iterable[float]) -> None:
    if not all(map(math.isfinite, scores)):
        raise FloatingPointError("the model gave NaN or infinity; are its weights whole?")
