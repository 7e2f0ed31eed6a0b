"""Runs the tasks of `mplug.pipeline` that are of texts on a server."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from mplug.errors import ConfigError
from mplug.text_classifier import Candidate, Classified, Filled, LabelScore, Question, Span, Tagged
from mplug_services.client.client import Client
from mplug_services.client.errors import ClientError, FailedPreconditionError
from mplug_services.client.generation_types import GenerationOptions
from mplug_services.client.text_types import ClassifyOutcome, KnownQuestion, TextSource
from mplug_services.client.types import ServedModel

if TYPE_CHECKING:
    from mplug.text_writing import WrittenText  # it imports torch

_SERVED = {"text-generation": "text-generation", "fill-mask": "fill-mask"}
"""A server's task for each of the pipelines'; the others are its model's that classifies."""


class RemoteTextRunner:
    """A server's model, as a `mplug.text_pipelines.TextRunner`. Its methods raise an item's error, if it has one.

    Args:
        task: one of the values of `mplug.text_tasks.TEXT_TASKS`.
        client: to the server; closed with the runner.
        model: name of one that a job of the server has trained; empty: the server's own.
    """

    def __init__(self, task: str, client: Client, model: str = "") -> None:
        self._task = _SERVED.get(task, "text-classification")
        self._client = client
        self._model = model

    @property
    def model_name(self) -> str:
        """Name of the model that answers.

        Raises:
            ClientError: The server has none, or does not answer.
        """
        return self._model or self._served().name

    @property
    def continues(self) -> bool:
        """Whether what it writes follows the text that it is given; errors as of `model_name`."""
        return self._served().continues_texts

    # Any: settings of GenerationOptions, `stop` and `seeds`.
    def generate(self, texts: Sequence[str], settings: Mapping[str, Any]) -> "list[tuple[WrittenText, ...]]":
        """Writes from each text; without seeds the server draws one for the call.

        Raises:
            ConfigError: An unknown setting, or another number of seeds than of texts.
            ClientError: A request failed.
        """
        rest = {name: value for name, value in settings.items() if name not in ("stop", "seeds")}
        seeds = settings.get("seeds") or [settings.get("seed")] * len(texts)
        if len(seeds) != len(texts):
            raise ConfigError(
                f"there are {len(seeds)} seeds for {len(texts)} texts; give one for each, or none"
            )
        written: dict[int, object] = {}
        for seed in dict.fromkeys(seeds):
            places = [place for place, each in enumerate(seeds) if each == seed]
            outcomes = _without_errors(
                self._client.generate(
                    [texts[place] for place in places],
                    options=_options({**rest, "seed": seed}),
                    stop=settings.get("stop", ()),
                    log_probs=True,
                    model=self._model,
                )
            )
            written |= {place: outcome.texts for place, outcome in zip(places, outcomes, strict=True)}
        # The same fields.
        return [cast("tuple[WrittenText, ...]", written[place]) for place in range(len(texts))]

    def classify(
        self,
        texts: Sequence[TextSource],
        labels: Sequence[str] | None = None,
        template: str = "{}",
        multi_label: bool = False,
    ) -> list[Classified]:
        """Judges each text or pair, by the model's own labels or by given ones.

        Raises:
            ClientError: A request failed.
        """
        outcomes = self._client.classify(
            texts, labels=labels or (), template=template, multi_label=multi_label, model=self._model
        )
        return [_classified(outcome) for outcome in _without_errors(outcomes)]

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """Finds the labelled spans of each text.

        Raises:
            ClientError: A request failed.
        """
        outcomes = _without_errors(self._client.classify(texts, model=self._model))
        return [
            Tagged(
                tuple(
                    Span(each.label, each.start, each.end, each.text, each.score) for each in outcome.spans
                ),
                outcome.truncated,
            )
            for outcome in outcomes
        ]

    def fill(self, texts: Sequence[str], top_k: int = 5) -> list[Filled]:
        """Fills every [MASK] of each text.

        Raises:
            ClientError: A request failed.
        """
        outcomes = _without_errors(self._client.fill_mask(texts, top_k=top_k, model=self._model))
        return [
            Filled(
                outcome.filled,
                tuple(tuple(Candidate(each.piece, each.score) for each in mask) for mask in outcome.masks),
                outcome.truncated,
            )
            for outcome in outcomes
        ]

    def answer(self, queries: Sequence[str], support: Sequence[Question]) -> list[Classified]:
        """Finds which of the known questions each new one asks.

        Raises:
            ClientError: A request failed.
        """
        known = [KnownQuestion(each.text, each.label) for each in support]
        outcomes = self._client.classify(queries, known_questions=known, model=self._model)
        return [_classified(outcome) for outcome in _without_errors(outcomes)]

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _served(self) -> ServedModel:
        try:
            return self._client.server_info().model(self._task)
        except LookupError as error:
            raise FailedPreconditionError(str(error), reason="MODEL_NOT_SERVED") from error


class _Outcome(Protocol):
    @property
    def error(self) -> ClientError | None: ...


OutcomeT = TypeVar("OutcomeT", bound=_Outcome)


def _without_errors(outcomes: Iterable[OutcomeT]) -> list[OutcomeT]:
    found = list(outcomes)
    for outcome in found:
        if outcome.error is not None:
            raise outcome.error
    return found


# Any: as of `generate`.
def _options(settings: Mapping[str, Any]) -> GenerationOptions | None:
    given = {name: value for name, value in settings.items() if value is not None}
    if given.get("method", "sample") != "sample":
        given.pop("seed", None)  # which the others take no notice of
    try:
        return GenerationOptions(**given) if given else None
    except TypeError as error:
        known = ", ".join([*GenerationOptions.__dataclass_fields__, "stop", "seeds"])
        raise ConfigError(f"unknown among {', '.join(given)}; settings of generation are {known}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _classified(outcome: ClassifyOutcome) -> Classified:
    scores = tuple(LabelScore(each.label, each.score) for each in outcome.labels)
    return Classified(scores, outcome.truncated)
