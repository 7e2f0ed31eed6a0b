"""Texts from a `TextGenerator`, as pipelines and serving want them: cut at stop strings, with what can be said of each.

A `TextWriter` takes requests while it writes others (see `mplug.generation.live`); `write` is a batch of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from mplug.errors import MplugError
from mplug.generation.config import GenerationConfig
from mplug.generation.engine import check_item
from mplug.generation.events import Event, Finished, Hypothesis, Token
from mplug.generation.live import LiveBatch, LiveRequest
from mplug.text_generator import Prompt, StateT, TextGenerator

FinishReason = Literal["end", "length", "stop"]

UNDECODED = "\N{REPLACEMENT CHARACTER}"
"""What the first bytes of a character are shown as, by tokenizers of bytes, until the rest of it comes."""


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """What is to be written, and how.

    Raises:
        MplugError: an empty stop string.
    """

    prompt: Prompt
    """Of the generator's `read`."""
    config: GenerationConfig
    seed: int = 0
    """Of `sample`."""
    stop: tuple[str, ...] = ()
    """A text ends before the first of these."""
    progress: bool = False
    """Tell of the text as it grows."""
    pause: float = 0.0
    """Least seconds between two of these: a text is made anew of all its ids each time. Stop strings are looked for at
    every token all the same."""

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise MplugError("a stop string is empty; give at least a character, or leave it out")


@dataclass(frozen=True, slots=True)
class WrittenText:
    """One text."""

    text: str
    """What was written, without the prompt; cut before the first stop string."""
    score: float
    """As of `Hypothesis`; of a text that ended at a stop string, of the tokens up to there."""
    token_ids: tuple[int, ...]
    """Prompt, then what was generated: special tokens and those of a stop string included."""
    log_probs: tuple[float, ...]
    """As of `Hypothesis`: one for each generated token."""
    finish_reason: FinishReason
    """`end`: by its ending token; `stop`: by a stop string; `length`: by neither, since it has `max_length` tokens or
    is a beam whose search ended with a better one."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step did to an item."""

    item: int
    text: str | None
    """The best text so far (of several drawn ones the first), where progress was asked for; without what may be half a
    character or the beginning of a stop string. None in the last update."""
    finished: tuple[WrittenText, ...] | None
    """All texts, in the last update; as of `Finished`."""


class TextWriter(Generic[StateT]):
    """Writes texts that come and go between steps.

    Items with equally many sequences are decoded together, those with `config.deterministic` alone. After an error of
    the model in `step` a writer is of no more use.

    Args:
        generator: in evaluation mode.
    """

    def __init__(self, generator: TextGenerator[StateT]) -> None:
        self._generator = generator
        self._batches: dict[Hashable, LiveBatch[StateT]] = {}
        self._drafts: dict[int, _Draft] = {}

    @property
    def live(self) -> tuple[int, ...]:
        """Items that are being written; none = nothing to do."""
        return tuple(self._drafts)

    def admit(self, requests: Mapping[int, WriteRequest]) -> list[Update]:
        """Begin with new items: encode them, and take their first step.

        Args:
            requests: by the item's number, which no live item has.

        Raises:
            MplugError: a request that the decoder cannot do (see `mplug.generation.stream`), or a number that is taken.
                Whatever is raised, none of the items is admitted, and the others are as they were.
        """
        self._check(requests)
        groups: dict[Hashable, dict[int, WriteRequest]] = {}
        for item, request in requests.items():
            groups.setdefault(_company(item, request.config), {})[item] = request
        updates: list[Update] = []
        try:
            for company, some in groups.items():
                updates += self._admit(company, some)
        except BaseException:
            self.drop(requests)
            raise
        return updates

    def step(self) -> list[Update]:
        """Let every item grow by a token."""
        updates = [
            update for batch in list(self._batches.values()) for update in self._tell(batch, batch.step())
        ]
        self._forget_idle()
        return updates

    def drop(self, items: Collection[int]) -> None:
        """Go on without these; those that are not live are passed over."""
        for batch in self._batches.values():
            batch.drop(items)
        for item in items:
            self._drafts.pop(item, None)
        self._forget_idle()

    def _check(self, requests: Mapping[int, WriteRequest]) -> None:
        for item, request in requests.items():
            if item in self._drafts:
                raise MplugError(f"item {item} is being written already; give every item a number of its own")
            check_item(self._generator.decoder, item, request.prompt.first, request.config)

    def _admit(self, company: Hashable, requests: Mapping[int, WriteRequest]) -> list[Update]:
        state = self._generator.start([request.prompt for request in requests.values()])
        batch = self._batches.setdefault(company, LiveBatch(self._generator.decoder))
        self._drafts |= {item: _Draft(item, request, self._generator) for item, request in requests.items()}
        live = {
            item: LiveRequest(request.prompt.first, request.config, request.seed)
            for item, request in requests.items()
        }
        updates = self._tell(batch, batch.admit(live, state))
        self._forget_idle()
        return updates

    def _tell(self, batch: LiveBatch[StateT], events: Sequence[Event]) -> list[Update]:
        finished: dict[int, tuple[Hypothesis, ...]] = {}
        for event in events:
            if isinstance(event, Finished):
                finished[event.item] = event.hypotheses
            else:
                self._drafts[event.item].add(event)
        updates = []
        for item in dict.fromkeys(event.item for event in events):
            update = self._drafts[item].look(finished.get(item))
            if update is not None:
                updates.append(update)
        ended = [update.item for update in updates if update.finished is not None]
        for item in ended:
            del self._drafts[item]
        batch.drop([item for item in ended if item not in finished])
        return updates

    def _forget_idle(self) -> None:
        self._batches = {company: batch for company, batch in self._batches.items() if batch.live}


# Any: whatever a generator's state is, and fields of GenerationConfig.
def write(
    generator: TextGenerator[Any],
    texts: Sequence[str],
    *,
    stop: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    **settings: Any,
) -> list[tuple[WrittenText, ...]]:
    """Write from each of several texts, as one batch.

    Args:
        generator: in evaluation mode.
        texts: what is continued, or made into another text: that depends on the generator.
        stop: a text ends before the first of these.
        seeds: of `sample`, one for each text; None = the configuration's for every one.
        settings: fields of `GenerationConfig`; what is not given is the checkpoint's own.

    Returns:
        Each text's `num_results` texts.

    Raises:
        ConfigError: an unknown or impossible setting.
        MplugError: another number of seeds, an empty stop string, or a text that the model cannot begin with.
    """
    config = generator.generation_config(**settings)
    seeds = [config.seed] * len(texts) if seeds is None else seeds
    if len(seeds) != len(texts):
        raise MplugError(f"there are {len(seeds)} seeds for {len(texts)} texts; give one for each, or none")
    requests = {
        item: WriteRequest(generator.read(text), config, seed, tuple(stop))
        for item, (text, seed) in enumerate(zip(texts, seeds, strict=True))
    }
    writer = TextWriter(generator)
    updates = writer.admit(requests)
    while writer.live:
        updates += writer.step()
    finished = {update.item: update.finished for update in updates if update.finished is not None}
    return [finished[item] for item in range(len(texts))]


# Any: whatever a generator's state is.
def written_text(generator: TextGenerator[Any], request: WriteRequest, one: Hypothesis) -> WrittenText:
    """What a hypothesis says, cut before the first of the request's stop strings."""
    text = generator.text(one.ids, request.prompt)
    end = _first(request.stop, text)
    has_ended = one.ids[-1] == generator.decoder.eos_id and len(one.log_probs) > 0
    reason: FinishReason = "stop" if end is not None else "end" if has_ended else "length"
    return WrittenText(text[:end], one.score, one.ids, one.log_probs, reason)


@dataclass(slots=True)
class _Line:
    """A text as far as it is known."""

    ids: list[int]
    """Prompt included."""
    log_probs: list[float] = field(default_factory=list)
    has_grown: bool = False
    """Since it was looked at."""


class _Draft:
    """One item while it is written: greedy and drawn texts as they grow, of beams what is certain of the best."""

    # Any: whatever the generator's state is.
    def __init__(self, item: int, request: WriteRequest, generator: TextGenerator[Any]) -> None:
        self._item = item
        self._request = request
        self._generator = generator
        is_beam = request.config.method == "beam"
        self._stop_at_once = () if is_beam else request.stop
        count = 1 if is_beam else request.config.num_results
        self._lines = [_Line(list(request.prompt.first)) for _ in range(count)]
        self._stopped: dict[int, WrittenText] = {}
        self._best = self._shown = ""
        self._next_look = 0.0

    def add(self, token: Token) -> None:
        """Take a token of one of the texts."""
        line = self._lines[token.text]
        line.ids.append(token.id)
        line.log_probs.append(token.log_prob)
        line.has_grown = True

    def look(self, hypotheses: Sequence[Hypothesis] | None) -> Update | None:
        """What there is to tell after a step; hypotheses, if it was the item's last."""
        if hypotheses is not None:
            texts = [
                self._stopped.get(number) or written_text(self._generator, self._request, one)
                for number, one in enumerate(hypotheses)
            ]
            return Update(self._item, None, tuple(texts))
        for number, line in enumerate(self._lines):
            if line.has_grown and number not in self._stopped:
                self._read(number, line)
        if len(self._stopped) == len(self._lines):
            return Update(
                self._item, None, tuple(self._stopped[number] for number in range(len(self._lines)))
            )
        if not self._request.progress or self._best == self._shown:
            return None
        self._shown = self._best
        return Update(self._item, self._shown, None)

    def _read(self, number: int, line: _Line) -> None:
        """Look what has become of a text, if anybody wants to know."""
        line.has_grown = False
        is_watched = self._request.progress and number == 0
        if not (is_watched or self._stop_at_once):
            return
        if is_watched and not self._stop_at_once:
            if time.monotonic() < self._next_look:
                return  # the next token brings it up again
            self._next_look = time.monotonic() + self._request.pause
        text = self._generator.text(line.ids, self._request.prompt)
        end = _first(self._request.stop, text)
        if end is not None and self._stop_at_once:
            score = sum(line.log_probs) / self._request.config.penalty(len(line.log_probs))
            ids, log_probs = tuple(line.ids), tuple(line.log_probs)
            self._stopped[number] = WrittenText(text[:end], score, ids, log_probs, "stop")
        if is_watched:
            self._best = _certain(text, self._request.stop) if end is None else text[:end]


def _company(item: int, config: GenerationConfig) -> Hashable:
    """What items that are decoded together have in common."""
    return (config.sequences, item if config.deterministic else None)


def _first(stop: Sequence[str], text: str) -> int | None:
    """Where the first of the stop strings begins."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return min(places, default=None)


def _certain(text: str, stop: Sequence[str]) -> str:
    """A growing text without its end, where that may turn out to be another character or a stop string."""
    text = text.rstrip(UNDECODED)
    longest = max(map(len, stop), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(one.startswith(text[start:]) for one in stop):
            return text[:start]
    return text
