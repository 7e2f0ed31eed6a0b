"""A model of texts on this machine, asked as a server is; see `mplug_services.cli.texts`."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import mplug
from mplug.errors import MplugError
from mplug.freezing import freeze
from mplug.local_text_runner import LocalTextRunner
from mplug.text_classifier import Classified, Question
from mplug.text_generator import TextGenerator
from mplug.text_loading import module_of
from mplug.text_writing import TextWriter, Update, WriteRequest, WrittenText
from mplug_services.cli.common import CliError, UsageError
from mplug_services.client import (
    ClassifyOutcome,
    FillOutcome,
    GeneratedText,
    GenerationOptions,
    KnownQuestion,
    LabelScore,
    MaskCandidate,
    TextOutcome,
    TextProgress,
    TextSource,
    TextSpan,
)
from mplug_services.runners.text_models import judging_task

MAX_SEED = 2**63 - 1


class LocalWriter:
    """Writes from texts.

    Args:
        source: as for `mplug.load`.
        device: likewise.
        dtype: likewise.

    Raises:
        CliError: Nothing loadable there.
    """

    def __init__(self, source: str, *, device: str, dtype: str) -> None:
        try:
            self._generator = mplug.load(source, task="text-generation", device=device, dtype=dtype)
        except MplugError as error:
            raise CliError(str(error)) from error
        freeze(module_of(self._generator))

    # Any: whatever the generator's state is.
    @property
    def generator(self) -> TextGenerator[Any]:
        """The model."""
        return self._generator

    def generate(
        self,
        texts: Sequence[str],
        *,
        options: GenerationOptions | None = None,
        stop: Sequence[str] = (),
        log_probs: bool = False,
        model: str = "",
    ) -> list[TextOutcome]:
        """Writes from each text, all together.

        Raises:
            CliError: A text or setting that cannot be, or the model gave NaN.
        """
        requests = self._requests(texts, options, stop)
        finished = {
            update.item: update.finished for update in self._updates(requests) if update.finished is not None
        }
        return [
            TextOutcome(
                place,
                _texts(finished[place], log_probs),
                _seed(requests[place]),
                requests[place].prompt.truncated,
            )
            for place in range(len(texts))
        ]

    def stream_generate(
        self,
        text: str,
        *,
        options: GenerationOptions | None = None,
        stop: Sequence[str] = (),
        log_probs: bool = False,
        model: str = "",
    ) -> Iterator[TextProgress]:
        """Writes from one text while it is watched; errors as of `generate`."""
        (request,) = self._requests([text], options, stop, progress=True)
        for update in self._updates([request]):
            if update.finished is not None:
                texts = _texts(update.finished, log_probs)
                yield TextProgress(texts[0].text, texts, _seed(request), request.prompt.truncated)
            elif update.text is not None:
                yield TextProgress(update.text)

    def close(self) -> None:
        """Nothing to let go of."""

    def _requests(
        self,
        texts: Sequence[str],
        options: GenerationOptions | None,
        stop: Sequence[str],
        *,
        progress: bool = False,
    ) -> list[WriteRequest]:
        try:
            config = self._generator.generation_config(**_settings(options))
            seed = secrets.randbelow(MAX_SEED) if options is None or options.seed is None else options.seed
            return [
                WriteRequest(self._generator.read(text), config, seed, tuple(stop), progress)
                for text in texts
            ]
        except MplugError as error:
            raise UsageError(str(error)) from error

    def _updates(self, requests: Sequence[WriteRequest]) -> Iterator[Update]:
        writer = TextWriter(self._generator)
        try:
            yield from writer.admit(dict(enumerate(requests)))
        except MplugError as error:
            raise UsageError(str(error)) from error
        while writer.live:
            yield from writer.step()


class LocalJudge:
    """Judges texts.

    Args:
        source: as for `mplug.load`.
        task: likewise; empty: what the folder was made for.
        device: likewise.
        dtype: likewise.

    Raises:
        CliError: Nothing loadable there.
    """

    def __init__(self, source: str, task: str, *, device: str, dtype: str) -> None:
        try:
            self._task = task or judging_task(source)
            self._runner = LocalTextRunner(self._task, source, device=device, dtype=dtype)
        except MplugError as error:
            raise CliError(str(error)) from error

    def classify(
        self,
        texts: Sequence[TextSource],
        *,
        labels: Sequence[str] = (),
        template: str = "{}",
        multi_label: bool = False,
        known_questions: Sequence[KnownQuestion] = (),
        model: str = "",
    ) -> list[ClassifyOutcome]:
        """Judges texts or pairs of texts, by what the model was loaded for.

        Raises:
            CliError: What the model cannot judge, or NaN.
        """
        try:
            if self._task == "token-classification":
                return self._tag(_single(texts))
            if self._task == "faq-question-answering":
                support = [Question(each.text, each.label) for each in known_questions]
                found = self._runner.answer(_single(texts), support)
            else:
                found = self._runner.classify(texts, labels or None, template, multi_label)
        except (MplugError, FloatingPointError) as error:
            raise CliError(str(error)) from error
        return [_classified(place, each) for place, each in enumerate(found)]

    def fill_mask(
        self, texts: Sequence[str], *, top_k: int | None = None, model: str = ""
    ) -> list[FillOutcome]:
        """Fills every [MASK] of each text; errors as of `classify`."""
        try:
            filled = self._runner.fill(texts, 5 if top_k is None else top_k)
        except (MplugError, FloatingPointError) as error:
            raise CliError(str(error)) from error
        return [
            FillOutcome(
                place,
                each.text,
                tuple(tuple(MaskCandidate(one.piece, one.score) for one in mask) for mask in each.masks),
                each.truncated,
            )
            for place, each in enumerate(filled)
        ]

    def close(self) -> None:
        """Nothing to let go of."""

    def _tag(self, texts: Sequence[str]) -> list[ClassifyOutcome]:
        return [
            ClassifyOutcome(
                place,
                spans=tuple(
                    TextSpan(one.label, one.start, one.end, one.text, one.score) for one in each.spans
                ),
                truncated=each.truncated,
            )
            for place, each in enumerate(self._runner.tag(texts))
        ]


# Any: fields of GenerationConfig.
def _settings(options: GenerationOptions | None) -> dict[str, Any]:
    if options is None:
        return {}
    given = {name: value for name, value in asdict(options).items() if value is not None and name != "seed"}
    method = options.effective_method
    return given if method is None else {**given, "method": method}


def _texts(written: Sequence[WrittenText], log_probs: bool) -> tuple[GeneratedText, ...]:
    if any(each.score != each.score for each in written):
        raise CliError("the model gave NaN; are its weights whole?")
    return tuple(
        GeneratedText(
            each.text,
            each.score,
            each.token_ids,
            each.log_probs if log_probs else (),
            each.finish_reason,
        )
        for each in written
    )


def _seed(request: WriteRequest) -> int | None:
    return request.seed if request.config.method == "sample" else None


def _single(texts: Sequence[TextSource]) -> list[str]:
    single = [text for text in texts if isinstance(text, str)]
    if len(single) < len(texts):
        raise UsageError("pairs are judged by a model's own labels alone")
    return single


def _classified(place: int, found: Classified) -> ClassifyOutcome:
    labels = tuple(LabelScore(each.label, each.score) for each in found.scores)
    return ClassifyOutcome(place, labels, truncated=found.truncated)
