"""Runs the tasks of `mplug.pipeline` on a server; registered as the entry point `connect` of `mplug.remote`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mplug.errors import ConfigError
from mplug.heat_maps import Explain, HeatMap
from mplug.pipelines import PIPELINE_TASKS, Generated, Input, Outcome, Ranked
from mplug_services.client.client import Client
from mplug_services.client.errors import ClientError, FailedPreconditionError
from mplug_services.client.explanation_wire import explained_limits
from mplug_services.client.generation_types import (
    ExplainOptions,
    GenerationOptions,
    MatchOutcome,
    Question,
    RankOutcome,
    TextOutcome,
)
from mplug_services.client.text_pipelines import RemoteTextRunner
from mplug_services.client.types import ImageSource


class RemoteRunner:
    """A server's model, as a `mplug.pipelines.Runner`.

    Args:
        task: `caption`, `vqa` or `rerank`.
        client: to the server; closed with the runner.
        options: how texts are generated.
        model: name of one that a job of the server has trained; empty: the server's own.
    """

    def __init__(
        self, task: str, client: Client, options: GenerationOptions | None = None, model: str = ""
    ) -> None:
        self._task = task
        self._client = client
        self._options = options
        self._model = model

    @property
    def model_name(self) -> str:
        """Name of the server's model for the task.

        Raises:
            ClientError: It has none, or does not answer.
        """
        if self._model:
            return self._model
        try:
            return self._client.server_info().model(self._task).name
        except LookupError as error:
            raise FailedPreconditionError(str(error), reason="MODEL_NOT_SERVED") from error

    def run(self, inputs: Sequence[Input], *, explain: Explain | None = None) -> list[Outcome]:
        """One outcome for each item, in order.

        Raises:
            ClientError: A request failed as a whole.
        """
        if self._task == "vqa":
            questions = [Question(item.image, item.text) for item in inputs]
            answers = self._client.answer(
                questions, options=self._options, explain=_options(explain), model=self._model
            )
            return [_outcome(each) for each in answers]
        run = self._caption if self._task == "caption" else self._match
        outcomes: dict[int, Outcome] = {}
        for text, places in _by_text(inputs).items():
            images: list[ImageSource] = [inputs[place].image for place in places]
            outcomes.update(zip(places, run(text, images, explain), strict=True))
        return [outcomes[place] for place in range(len(inputs))]

    def rank(
        self,
        inputs: Sequence[Input],
        answers: Sequence[str],
        k: int = 128,
        *,
        explain: Explain | None = None,
    ) -> list[Outcome]:
        """Orders a list of answers for each question.

        Raises:
            ClientError: A request failed as a whole.
        """
        questions = [Question(item.image, item.text) for item in inputs]
        return [
            Outcome(
                ranked=tuple(Ranked(each.index, each.text, each.probability) for each in outcome.answers),
                error=outcome.error,
                heat_maps=_heat_maps(outcome),
            )
            for outcome in self._client.rank_answers(
                questions, answers, k=k, explain=_options(explain), model=self._model
            )
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _caption(self, prompt: str, images: list[ImageSource], explain: Explain | None) -> Iterable[Outcome]:
        captions = self._client.caption(
            images, prompt=prompt, options=self._options, explain=_options(explain), model=self._model
        )
        return [_outcome(each) for each in captions]

    def _match(self, text: str, images: list[ImageSource], explain: Explain | None) -> Iterable[Outcome]:
        options = _options(explain)
        size = explained_limits(self._client.server_info().limits, options).max_batch_size
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            for each in self._client.rerank(text, batch, explain=options, model=self._model).outcomes:
                missed = (
                    None if each.reached else ClientError("the deadline came first", code="DEADLINE_EXCEEDED")
                )
                yield Outcome(
                    match_probability=each.match_probability,
                    error=each.error or missed,
                    heat_maps=_heat_maps(each),
                )


def connect(task: str, address: str, settings: Mapping[str, Any]) -> RemoteRunner | RemoteTextRunner:
    """The runner of a task at an address; see `mplug.remote_models.connect`.

    Raises:
        ConfigError: An unknown setting.
    """
    if task not in PIPELINE_TASKS:
        return RemoteTextRunner(task, Client(address))
    try:
        options = GenerationOptions(**settings) if settings else None
    except TypeError as error:
        known = ", ".join(GenerationOptions.__dataclass_fields__)
        raise ConfigError(
            f"unknown among {', '.join(settings)}; settings of generation are {known}"
        ) from error
    return RemoteRunner(PIPELINE_TASKS[task], Client(address), options)


def _by_text(inputs: Sequence[Input]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, item in enumerate(inputs):
        places.setdefault(item.text, []).append(place)
    return places


def _outcome(outcome: TextOutcome) -> Outcome:
    texts = tuple(Generated(each.text, each.score, each.token_ids) for each in outcome.texts)
    return Outcome(texts, error=outcome.error, heat_maps=_heat_maps(outcome))


def _options(explain: Explain | None) -> ExplainOptions | None:
    return None if explain is None else ExplainOptions(explain.layer)


def _heat_maps(outcome: TextOutcome | RankOutcome | MatchOutcome) -> tuple[HeatMap, ...]:
    return tuple(HeatMap(each.word, each.tokens, each.cells_HW, each.overlay) for each in outcome.heat_maps)
