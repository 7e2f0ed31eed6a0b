"""Texts to write: some prompts, or a token of all that is live, in a quantum; others join between two quanta."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol

import torch

from mplug.text_generator import TextGenerator
from mplug.text_writing import TextWriter, Update, WriteRequest, WrittenText
from mplug_services.runners.runner import Alive, Deliver, Newcomers
from mplug_services.text_work import GenerateText
from mplug_services.work import STREAM_PAUSE, NonFiniteError, Progress, WorkItem, WorkKind

logger = logging.getLogger(__name__)

PROMPT_TOKENS_AT_ONCE = {"cpu": 512, "cuda": 16384}
"""Tokens of prompts, padding included, that one quantum reads. A CPU gains little from more, and what is urgent waits
for the whole quantum."""
WARM_UP_TOKENS = 2


class ServedGenerator(TextGenerator[Any], Protocol):
    """A generator that says where it is."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...


class WriteRunner:
    """Writes from texts; a batch takes in further items as long as it runs (continuous batching).

    Args:
        model: what writes.
    """

    kind = WorkKind.GENERATE

    def __init__(self, model: ServedGenerator) -> None:
        self._model = model

    def run(
        self, items: Sequence[WorkItem], deliver: Deliver, alive: Alive
    ) -> Generator[None, Newcomers | None, None]:
        """Quanta of a batch of `GenerateText`; see `Runner`."""
        batch = _Batch(self._model, deliver, alive)
        batch.add(dict(enumerate(items)))
        while batch.goes_on():
            batch.run_quantum()
            batch.add((yield) or {})

    def warm_up(self) -> list[list[WorkItem]]:
        """One item, and a batch."""
        config = self._model.generation_config(method="greedy", max_length=WARM_UP_TOKENS)
        item = GenerateText(prompt=self._model.read("warm up"), config=config)
        return [[item], [item] * 2]


class _Batch:
    """Items that are written, and those whose prompts are not read yet.

    Reading and writing take turns, so that neither waits for the other for ever. When the model fails with several,
    each of these is tried alone, from its beginning, so that only the culprit fails; what waits, waits for that.
    """

    def __init__(self, model: ServedGenerator, deliver: Deliver, alive: Alive) -> None:
        self._model = model
        self._deliver = deliver
        self._alive = alive
        self._writer = TextWriter(model)
        self._waiting: dict[int, GenerateText] = {}
        self._live: dict[int, GenerateText] = {}
        self._suspects: dict[int, GenerateText] = {}
        """The model failed with them."""
        self._alone = False
        """Whether what is live is a suspect."""
        self._has_read = False
        """Whether the last quantum read prompts."""

    def add(self, items: Newcomers) -> None:
        """Let items wait for their turn."""
        self._waiting |= {place: item for place, item in items.items() if isinstance(item, GenerateText)}

    def goes_on(self) -> bool:
        """Forget items that nobody waits for; whether there are others."""
        self._writer.drop([place for place in self._live if not self._alive(place)])
        for items in (self._waiting, self._live, self._suspects):
            for place in [place for place in items if not self._alive(place)]:
                del items[place]
        self._alone = self._alone and bool(self._live)
        return bool(self._waiting or self._live or self._suspects)

    def run_quantum(self) -> None:
        """Read some prompts, or write a token of each live text."""
        prompts = {} if self._live and self._has_read else self._next_prompts()
        self._has_read = bool(prompts)
        try:
            updates = self._read(prompts) if prompts else self._writer.step()
        except Exception as error:
            # A writer that fails with prompts goes on with the others, one that fails with a step does not.
            failed = dict(prompts or self._live)
            if not prompts:
                self._live.clear()
                self._writer = TextWriter(self._model)
            self._fail(failed, error)
        else:
            for update in updates:
                self._tell(update)

    def _read(self, prompts: Mapping[int, GenerateText]) -> list[Update]:
        updates = self._writer.admit({place: _request(item) for place, item in prompts.items()})
        self._live |= prompts
        return updates

    def _next_prompts(self) -> Mapping[int, GenerateText]:
        if self._suspects or self._alone:
            if self._live:
                return {}
            place = next(iter(self._suspects))
            self._alone = True
            return {place: self._suspects.pop(place)}
        room = PROMPT_TOKENS_AT_ONCE[self._model.device.type]
        prompts: dict[int, GenerateText] = {}
        longest = 0
        for place, item in self._waiting.items():
            longest = max(longest, len(item.prompt.first) + len(item.prompt.source))
            if prompts and (len(prompts) + 1) * longest > room:
                break
            prompts[place] = item
        self._waiting = {place: item for place, item in self._waiting.items() if place not in prompts}
        return prompts

    def _fail(self, failed: Mapping[int, GenerateText], error: Exception) -> None:
        logger.error("writing %d texts failed", len(failed), exc_info=error)
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(failed) == 1:
            self._deliver(next(iter(failed)), error)
        else:
            self._suspects |= failed

    def _tell(self, update: Update) -> None:
        if update.finished is not None:
            del self._live[update.item]
            self._deliver(update.item, _finite(update.finished))
        elif update.text is not None:
            self._deliver(update.item, Progress(update.text))


def _request(item: GenerateText) -> WriteRequest:
    return WriteRequest(
        prompt=item.prompt,
        config=item.config,
        seed=item.seed,
        stop=item.stop,
        progress=item.stream,
        pause=STREAM_PAUSE,
    )


def _finite(texts: tuple[WrittenText, ...]) -> tuple[WrittenText, ...] | NonFiniteError:
    if all(math.isfinite(text.score) for text in texts):
        return texts
    return NonFiniteError("the model gave NaN or infinity for this item")
