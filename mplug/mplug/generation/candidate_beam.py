"""Beam search over twice as many candidates as beams, of which those that end a text are set aside.

Each step looks at the best 2 * `beam_size` continuations of all beams. Ends among the first `beam_size` of them are
stored as hypotheses, other ends are dropped; the first `beam_size` that are no ends are the new beams. None lives on
behind its end. `beam_size` hypotheses are kept: one more takes the place of the worst if its score is higher. What a
score is, and when an item ends, is up to whose search it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mplug.generation.config import GenerationConfig
from mplug.generation.events import Event, Finished, Hypothesis, Token
from mplug.generation.search import Move, broken, is_broken, settled

Candidate = tuple[int, int, float]
"""A token, the beam that it would continue, and the sum with it."""


@dataclass(slots=True)
class Item:
    """One item's beams."""

    number: int
    beams: list[list[int]]
    streamed: int
    """Tokens of the best text, prompt included, that have been yielded."""
    sums: list[float] = field(default_factory=lambda: [0.0])
    rows: list[int] = field(default_factory=list)
    """Of each beam: which one of the step before it goes on from."""
    stored: list[Hypothesis] = field(default_factory=list)

    def take(self, candidates: Sequence[Candidate]) -> None:
        """Let these be the beams."""
        self.beams = [[*self.beams[beam], token] for token, beam, _ in candidates]
        self.rows = [beam for _, beam, _ in candidates]
        self.sums = [total for *_, total in candidates]

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
        shared = settled([*self.beams, *(one.ids for one in self.stored)], self.streamed)
        self.streamed += len(shared)
        return [Token(self.number, token) for token in shared]


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
            Item(number, [list(prompt)], streamed=len(prompt))
            for number, prompt in zip(items, prompts, strict=True)
        ]
        self._generated = 0

    def advance(self, logits_SV: Tensor) -> Move:
        """Extend every item's beams by one token; see `Search`."""
        candidates = self._candidates(logits_SV)
        self._generated += 1
        last = self._generated == self._config.max_length
        events: list[Event] = []
        kept: list[int] = []
        for place, item in enumerate(self._items):
            if self._grow(item, candidates[place]):
                events += self._finish(item)
            elif last:
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
            ids=[beam[-1] for item in self._items for beam in item.beams],
        )

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these items alone; see `Search`."""
        self._items = [self._items[place] for place in places]

    @abstractmethod
    def _values(self, logits_SV: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        """What a token adds to the sum of a text, float32 (S, V); for `self._generated` tokens so far."""

    @abstractmethod
    def _score(self, total: float, length: int) -> float:
        """Of a hypothesis with this sum, `length` tokens long, the prompt and the end counted.

        `self._generated` counts its newest token.
        """

    @abstractmethod
    def _attainable(self, total: float, length: int) -> float:
        """The score that a hypothesis has to reach, for an item to end, where the best candidate has this sum."""

    @abstractmethod
    def _ranked(self, stored: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Best first."""

    def _grow(self, item: Item, candidates: list[Candidate]) -> bool:
        """Take the new beams from candidates, best first; returns whether the item ends."""
        most = self._config.beam_size
        if is_broken(candidates):
            item.stored = [broken(item.beams[beam]) for _, beam, _ in candidates[:most]]
            return True
        length = len(item.beams[0]) + 1
        for token, beam, total in candidates[:most]:
            if token == self._eos_id:
                item.store(Hypothesis((*item.beams[beam], token), self._score(total, length)), most)
        item.take([candidate for candidate in candidates if candidate[0] != self._eos_id][:most])
        if len(item.stored) < most:
            return False
        return min(one.score for one in item.stored) >= self._attainable(candidates[0][2], length)

    def _store_beams(self, item: Item) -> None:
        """Let the live beams be hypotheses."""
        for beam, total in zip(item.beams, item.sums, strict=True):
            item.store(Hypothesis(tuple(beam), self._score(total, len(beam))), self._config.beam_size)

    def _finish(self, item: Item) -> list[Event]:
        best = self._ranked(item.stored)
        tokens: list[Event] = [Token(item.number, token) for token in best[0].ids[item.streamed :]]
        return [*tokens, Finished(item.number, tuple(best[: self._config.num_results]))]

    def _candidates(self, logits_SV: Tensor) -> list[list[Candidate]]:
        """Each item's best continuations, best first."""
        texts = [beam for item in self._items for beam in item.beams]
        values_SV = self._values(logits_SV, texts)
        vocab_size = values_SV.shape[-1]
        sums_Br = torch.tensor(
            [item.sums for item in self._items], dtype=torch.float32, device=values_SV.device
        )
        sums_BrV = values_SV.view(*sums_Br.shape, vocab_size) + sums_Br[:, :, None]
        best_Bc, places_Bc = sums_BrV.flatten(1).topk(self._config.candidates)
        # One transfer: places and float32 sums are exact in float64.
        return [
            [
                (int(place) % vocab_size, int(place) // vocab_size, total)
                for place, total in zip(*item, strict=True)
            ]
            for item in torch.stack([places_Bc.double(), best_Bc.double()], dim=1).tolist()
        ]
