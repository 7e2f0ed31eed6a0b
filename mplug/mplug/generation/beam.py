"""The reference's beam search, quirk by quirk.

mPLUG's texts come from ModelScope's `TextGenerator` (models/multi_modal/mplug/predictor.py; the public training code
has the same one). Whoever wants its captions needs its search, which differs from the textbook's; here is all of it:

1.  A beam that emits the end is stored as a hypothesis *and lives on*: it keeps its place among the beams and may
    continue behind the end. Such texts, [CLS] cat [SEP] dog, can be among the results.
2.  An item ends when its *best* beam emits the end at this very step, or at `max_length`. Other beams' ends do not
    count, nor does a stored hypothesis that nothing can beat any more.
3.  When an item ends, *all* its beams become hypotheses, finished or not, with their scores of this step. One that
    just emitted the end is stored once.
4.  The score is (sum of log-probabilities) / ((5 + n) / 6) ** 0.6 with n generated tokens, the end counted: GNMT's
    length penalty, *applied before pruning*. All beams are of one length, so it does not change what is pruned; it does
    rank hypotheses. The sum that is carried on is the rounded score times the penalty.
5.  Before `min_length` tokens the end has log-probability -1e20, set after the softmax: the others are not
    renormalised, and a search that has nothing else could still take it.
6.  The first step has one live beam; the others start from minus infinity. (Here: one sequence, which becomes r.)
7.  Hypotheses are sorted by score, descending and *stably*: of equal scores the one stored first wins. The first
    `beam_size` of them are kept, and of these `num_results` returned.
8.  Ids keep the start and the end token. `max_length` counts generated tokens only.
9.  There is no n-gram blocking and no repetition handling; the options for them are ours, off unless asked for.
10. Every step reads the whole text with *no padding mask*. A text has no padding here, so there is nothing to it.

One difference cannot show in a text: where probabilities underflow, log(softmax) gives the reference minus infinity
and log_softmax gives us a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mplug.generation.config import GenerationConfig
from mplug.generation.constraints import constrained_log_probs
from mplug.generation.events import Event, Finished, Hypothesis
from mplug.generation.search import Beam, Choice, Move, is_broken, read_choices, settled, tokens


@dataclass(slots=True)
class _Item:
    """One item's beams."""

    number: int
    beams: list[Beam]
    streamed: int
    """Tokens of the best text, prompt included, that have been yielded."""
    hypotheses: list[Hypothesis] = field(default_factory=list)

    @property
    def generated(self) -> int:
        """Tokens of each beam that are not of the prompt."""
        return len(self.beams[0].log_probs)

    def grow(self, choices: Sequence[Choice], eos_id: int, max_length: int) -> bool:
        """Take the new beams, best first; returns whether the item ends."""
        if is_broken(choices):
            self.hypotheses = [self.beams[choice.beam].scored(math.nan) for choice in choices]
            return True
        self.beams = [self.beams[choice.beam].extended(choice) for choice in choices]
        ends = self.generated == max_length or choices[0].token == eos_id
        self.hypotheses += [
            beam.scored(choice.value)
            for beam, choice in zip(self.beams, choices, strict=True)
            if ends or choice.token == eos_id
        ]
        return ends

    def finish(self, config: GenerationConfig) -> list[Event]:
        best = sorted(self.hypotheses, key=lambda one: one.score, reverse=True)
        rest = tokens(self.number, best[0], self.streamed, len(best[0].ids))
        return [*rest, Finished(self.number, tuple(best[: config.num_results]))]

    def certain(self) -> list[Event]:
        """Tokens that all live beams and stored hypotheses share, and so the best text has."""
        start, self.streamed = self.streamed, settled([*self.beams, *self.hypotheses], self.streamed)
        return tokens(self.number, self.beams[0], start, self.streamed)


class BeamSearch:
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
            _Item(number, [Beam(tuple(prompt))], streamed=len(prompt))
            for number, prompt in zip(items, prompts, strict=True)
        ]
        self._sums_Br: Tensor | None = None

    def advance(self, logits_SV: Tensor) -> Move:
        """Extend every item's beams by one token; see `Search`."""
        chosen = self._choose(logits_SV)
        events: list[Event] = []
        kept: list[int] = []
        for place, (item, choices) in enumerate(zip(self._items, chosen, strict=True)):
            if item.grow(choices, self._eos_id, self._config.max_length):
                events += item.finish(self._config)
            else:
                events += item.certain()
                kept.append(place)
        if len(kept) < len(self._items):
            self.keep(kept)
        going_on = [choice for place in kept for choice in chosen[place]]
        return Move(
            events,
            kept,
            rows=[choice.beam for choice in going_on],
            ids=[choice.token for choice in going_on],
        )

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these items alone; see `Search`."""
        self._items = [self._items[place] for place in places]
        if self._sums_Br is not None:
            self._sums_Br = self._sums_Br[
                torch.tensor(list(places), dtype=torch.int64, device=self._sums_Br.device)
            ]

    def join(self, other: BeamSearch) -> None:
        """Take over another search's items; see `JoinableSearch`."""
        sums = [search._sums_Br for search in (self, other) if search._sums_Br is not None]
        assert len(sums) == 2, "both have advanced"
        self._items += other._items
        self._sums_Br = torch.cat(sums)

    def _choose(self, logits_SV: Tensor) -> list[list[Choice]]:
        config, items = self._config, self._items
        texts = [beam.ids for item in items for beam in item.beams]
        generated = [item.generated for item in items for _ in item.beams]
        log_probs_SV = constrained_log_probs(logits_SV, texts, generated, config, self._eos_id)
        # The best of all are among each beam's best.
        log_probs_Bru, tokens_Bru = (
            t.view(len(items), -1, config.beam_size) for t in log_probs_SV.topk(config.beam_size)
        )
        sums_Bru = log_probs_Bru if self._sums_Br is None else log_probs_Bru + self._sums_Br[:, :, None]
        penalties_B1 = sums_Bru.new_tensor([[config.penalty(item.generated + 1)] for item in items])
        scores_Br, places_Br = (sums_Bru.flatten(1) / penalties_B1).topk(config.beam_size)
        self._sums_Br = scores_Br * penalties_B1
        tokens_Br = tokens_Bru.flatten(1).gather(1, places_Br)
        log_probs_Br = log_probs_Bru.flatten(1).gather(1, places_Br)
        return read_choices(tokens_Br, places_Br // config.beam_size, scores_Br, log_probs_Br)
