"""open_clip's beam search for CoCa, quirk by quirk.

CoCa's texts come from open_clip's `CoCa.generate`, which steers transformers' `BeamSearchScorer`. Whoever wants its
captions needs its search; here is all of it:

1.  What is summed are raw *logits*; nothing is normalised. Sums may be positive, and grow with a text.
2.  Of `num_beams` beams in `num_beam_groups` groups, nothing keeps the groups apart (no diversity penalty), so each
    group is the same search of `num_beams / num_beam_groups` beams. Here it is made once, and `beam_size` is that
    quotient: 2 for open_clip's own 6 beams in 3 groups.
3.  Each step looks at the best 2 * `beam_size` continuations of all beams. Ends among the first `beam_size` of them
    are stored as hypotheses, other ends are dropped; the first `beam_size` that are no ends are the new beams. None
    lives on behind its end.
4.  The score is (sum) / length ** 1.0; the length is that of the *whole* text, start, prompt and end counted.
5.  `beam_size` hypotheses are kept: one more takes the place of the worst if its score is higher.
6.  An item ends when so many are stored and the worst of them is at least as good as the best continuation of this
    step, an end or not, would be with *this* length. That is no bound: with positive sums a longer text can do better.
7.  At `max_length` the live beams become hypotheses by the same rule, without an end.
8.  Hypotheses are sorted by score; of equal scores the one stored *last* wins.
9.  Before `min_length` tokens the end is forbidden (open_clip counts the starting token too: its `min_seq_len` and
    `seq_len` are one more than our lengths). Its prompts (`text`) are read by sampling alone; ours by this search, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mplug.generation.config import GenerationConfig
from mplug.generation.constraints import constrained_logits
from mplug.generation.events import Event, Finished, Hypothesis, Token
from mplug.generation.search import Move, broken, is_broken, settled

Candidate = tuple[int, int, float]
"""A token, the beam that it would continue, and the sum with it."""


@dataclass(slots=True)
class _Item:
    """One item's beams."""

    number: int
    beams: list[list[int]]
    streamed: int
    """Tokens of the best text, prompt included, that have been yielded."""
    sums: list[float] = field(default_factory=lambda: [0.0])
    rows: list[int] = field(default_factory=list)
    """Of each beam: which one of the step before it goes on from."""
    stored: list[Hypothesis] = field(default_factory=list)

    def grow(self, candidates: list[Candidate], config: GenerationConfig, eos_id: int) -> bool:
        """Take the new beams from candidates, best first; returns whether the item ends."""
        if is_broken(candidates):
            self.stored = [broken(self.beams[beam]) for _, beam, _ in candidates[: config.beam_size]]
            return True
        penalty = config.penalty(len(self.beams[0]) + 1)
        going = [candidate for candidate in candidates if candidate[0] != eos_id][: config.beam_size]
        for token, beam, total in candidates[: config.beam_size]:
            if token == eos_id:
                self._store((*self.beams[beam], token), total / penalty, config.beam_size)
        self.beams = [[*self.beams[beam], token] for token, beam, _ in going]
        self.rows = [beam for _, beam, _ in going]
        self.sums = [total for *_, total in going]
        worst = min((one.score for one in self.stored), default=0.0)
        return len(self.stored) == config.beam_size and worst >= candidates[0][2] / penalty

    def store_beams(self, config: GenerationConfig) -> None:
        """Let the live beams be hypotheses."""
        for beam, total in zip(self.beams, self.sums, strict=True):
            self._store(tuple(beam), total / config.penalty(len(beam)), config.beam_size)

    def finish(self, config: GenerationConfig) -> list[Event]:
        best = sorted(self.stored, key=lambda one: one.score)[::-1]
        tokens: list[Event] = [Token(self.number, token) for token in best[0].ids[self.streamed :]]
        return [*tokens, Finished(self.number, tuple(best[: config.num_results]))]

    def certain(self) -> list[Event]:
        """Tokens that all live beams and stored hypotheses share, and so the best text has."""
        shared = settled([*self.beams, *(one.ids for one in self.stored)], self.streamed)
        self.streamed += len(shared)
        return [Token(self.number, token) for token in shared]

    def _store(self, ids: tuple[int, ...], score: float, most: int) -> None:
        if len(self.stored) < most:
            self.stored.append(Hypothesis(ids, score))
            return
        worst = min(range(most), key=lambda place: self.stored[place].score)
        if score > self.stored[worst].score:
            del self.stored[worst]
            self.stored.append(Hypothesis(ids, score))


class OpenClipBeamSearch:
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
            _Item(number, [list(prompt)], streamed=len(prompt))
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
            ends = item.grow(candidates[place], self._config, self._eos_id)
            if last:
                item.store_beams(self._config)
            if last or ends:
                events += item.finish(self._config)
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

    def _candidates(self, logits_SV: Tensor) -> list[list[Candidate]]:
        """Each item's best continuations, best first."""
        texts = [beam for item in self._items for beam in item.beams]
        logits_SV = constrained_logits(logits_SV, texts, self._generated, self._config, self._eos_id)
        vocab_size = logits_SV.shape[-1]
        sums_Br = torch.tensor(
            [item.sums for item in self._items], dtype=torch.float32, device=logits_SV.device
        )
        sums_BrV = logits_SV.view(*sums_Br.shape, vocab_size) + sums_Br[:, :, None]
        best_Bc, places_Bc = sums_BrV.flatten(1).topk(self._config.candidates)
        # One transfer: places and float32 sums are exact in float64.
        return [
            [
                (int(place) % vocab_size, int(place) // vocab_size, total)
                for place, total in zip(*item, strict=True)
            ]
            for item in torch.stack([places_Bc.double(), best_Bc.double()], dim=1).tolist()
        ]
