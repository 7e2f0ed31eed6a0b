"""Beam search over twice as many candidates as beams, of which those that end a text are set aside.

Each step looks at the best 2 * `beam_size` continuations of all beams. Ends among the first `beam_size` of them are
stored as hypotheses, other ends are dropped; the first `beam_size` that are no ends are the new beams. None lives on
behind its end. `beam_size` hypotheses are kept: one more takes the place of the worst if its score is higher. What a
score is, and when an item ends, is up to whose search it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from mplug.generation.config import GenerationConfig
from mplug.generation.events import Event, Finished, Hypothesis
from mplug.generation.search import Beam, Choice, Move, is_broken, read_choices, settled, tokens


@dataclass(slots=True)
class Item:
    """One item's beams."""

    number: int
    beams: list[Beam]
    streamed: int
    """Tokens of the best text, prompt included, that have been yielded."""
    sums: list[float] = field(default_factory=lambda: [0.0])
    rows: list[int] = field(default_factory=list)
    """Of each beam: which one of the step before it goes on from."""
    stored: list[Hypothesis] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of each beam, the prompt's included."""
        return len(self.beams[0].ids)

    @property
    def generated(self) -> int:
        """Those that are not of the prompt."""
        return len(self.beams[0].log_probs)

    def take(self, candidates: Sequence[Choice]) -> None:
        """Let these be the beams."""
        self.beams = [self.beams[one.beam].extended(one) for one in candidates]
        self.rows = [one.beam for one in candidates]
        self.sums = [one.value for one in candidates]

    def store(self, one: Hypothesis, most: int) -> None:
        """Keep a hypothesis, if it is among the best."""
        if len(self.stored) < most:
            self.stored.append(one)
            return
        worst = min(range(most), key=lambda place: self.stored[place].score)
        if one.score > self.stored[worst].score:
            del self.stored[worst]
            self.stored.append(one)

    def certain(self) -> list[Event]:
        """Tokens that all live beams and stored hypotheses share, and so the best text has."""
        start, self.streamed = self.streamed, settled([*self.beams, *self.stored], self.streamed)
        return tokens(self.number, self.beams[0], start, self.streamed)


class CandidateBeamSearch(ABC):
    """Several items' beams at once.

    Args:
        config: `beam_size`, lengths, penalties.
        eos_id: token id that ends a text.
        items: the items' numbers, for events.
        prompts: their first tokens.
    """

    def __init__(
        self, config: GenerationConfig, eos_id: int, items: Sequence[int], prompts: Sequence[Sequence[int]]
    ) -> None:
        self._config = config
        self._eos_id = eos_id
        self._items = [
            Item(number, [Beam(tuple(prompt))], streamed=len(prompt))
            for number, prompt in zip(items, prompts, strict=True)
        ]

    def advance(self, logits_SV: Tensor) -> Move:
        """Extend every item's beams by one token; see `Search`."""
        candidates = self._candidates(logits_SV)
        events: list[Event] = []
        kept: list[int] = []
        for place, item in enumerate(self._items):
            if self._grow(item, candidates[place]):
                events += self._finish(item)
            elif item.generated == self._config.max_length:
                self._store_beams(item)
                events += self._finish(item)
            else:
                events += item.certain()
                kept.append(place)
        self.keep(kept)
        return Move(
            events,
            kept,
            rows=[row for item in self._items for row in item.rows],
            ids=[beam.ids[-1] for item in self._items for beam in item.beams],
        )

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these items alone; see `Search`."""
        self._items = [self._items[place] for place in places]

    def join(self, other: Self) -> None:
        """Take over another search's items; see `JoinableSearch`."""
        self._items += other._items

    @abstractmethod
    def _values(self, logits_SV: Tensor, texts: Sequence[Sequence[int]], generated: Sequence[int]) -> Tensor:
        """What a token adds to the sum of a text, float32 (S, V); arguments as of `constrained_log_probs`."""

    @abstractmethod
    def _score(self, total: float, length: int, generated: int) -> float:
        """Of a hypothesis with this sum, `length` tokens long; in either number the end is counted."""

    @abstractmethod
    def _attainable(self, total: float, length: int, generated: int) -> float:
        """The score that a hypothesis has to reach, for an item to end, where the best candidate has this sum."""

    @abstractmethod
    def _ranked(self, stored: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Best first."""

    def _grow(self, item: Item, candidates: Sequence[Choice]) -> bool:
        """Take the new beams from candidates, best first; returns whether the item ends."""
        most = self._config.beam_size
        if is_broken(candidates):
            item.stored = [item.beams[one.beam].scored(math.nan) for one in candidates[:most]]
            return True
        length, generated = item.length + 1, item.generated + 1
        for one in candidates[:most]:
            if one.token == self._eos_id:
                ended = item.beams[one.beam].extended(one)
                item.store(ended.scored(self._score(one.value, length, generated)), most)
        item.take([one for one in candidates if one.token != self._eos_id][:most])
        if len(item.stored) < most:
            return False
        attainable = self._attainable(candidates[0].value, length, generated)
        return min(one.score for one in item.stored) >= attainable

    def _store_beams(self, item: Item) -> None:
        """Let the live beams be hypotheses."""
        for beam, total in zip(item.beams, item.sums, strict=True):
            item.store(beam.scored(self._score(total, item.length, item.generated)), self._config.beam_size)

    def _finish(self, item: Item) -> list[Event]:
        best = self._ranked(item.stored)
        rest = tokens(item.number, best[0], item.streamed, len(best[0].ids))
        return [*rest, Finished(item.number, tuple(best[: self._config.num_results]))]

    def _candidates(self, logits_SV: Tensor) -> list[list[Choice]]:
        """Each item's best continuations, best first."""
        texts = [beam.ids for item in self._items for beam in item.beams]
        generated = [item.generated for item in self._items for _ in item.beams]
        values_SV = self._values(logits_SV, texts, generated)
        vocab_size = values_SV.shape[-1]
        sums_Br = values_SV.new_tensor([item.sums for item in self._items])
        values_BP = values_SV.view(len(self._items), -1)  # P = r * V
        sums_BP = (values_BP.view(*sums_Br.shape, vocab_size) + sums_Br[:, :, None]).flatten(1)
        best_Bc, places_Bc = sums_BP.topk(self._config.candidates)
        own_Bc = values_BP.gather(1, places_Bc)
        return read_choices(places_Bc % vocab_size, places_Bc // vocab_size, best_Bc, own_Bc)
