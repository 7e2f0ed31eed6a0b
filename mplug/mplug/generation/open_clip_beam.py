"""open_clip's beam search for CoCa, quirk by quirk.

CoCa's texts come from open_clip's `CoCa.generate`, which steers transformers' `BeamSearchScorer`. Whoever wants its
captions needs its search; here is all of it:

1.  What is summed are raw *logits*; nothing is normalised. Sums may be positive, and grow with a text.
2.  Of `num_beams` beams in `num_beam_groups` groups, nothing keeps the groups apart (no diversity penalty), so each
    group is the same search of `num_beams / num_beam_groups` beams. Here it is made once, and `beam_size` is that
    quotient: 2 for open_clip's own 6 beams in 3 groups.
3.  It is a search over candidates, see `mplug.generation.candidate_beam`.
4.  The score is (sum) / length ** 1.0; the length is that of the *whole* text, start, prompt and end counted.
5.  An item ends when so many are stored and the worst of them is at least as good as the best continuation of this
    step, an end or not, would be with *this* length. That is no bound: with positive sums a longer text can do better.
6.  At `max_length` the live beams become hypotheses by the same rule, without an end.
7.  Hypotheses are sorted by score; of equal scores the one stored *last* wins.
8.  Before `min_length` tokens the end is forbidden (open_clip counts the starting token too: its `min_seq_len` and
    `seq_len` are one more than our lengths). Its prompts (`text`) are read by sampling alone; ours by this search, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mplug.generation.candidate_beam import CandidateBeamSearch
from mplug.generation.constraints import constrained_logits
from mplug.generation.events import Hypothesis


class OpenClipBeamSearch(CandidateBeamSearch):
    """Several items' beams at once; arguments as of `CandidateBeamSearch`."""

    def _values(self, logits_SV: Tensor, texts: Sequence[Sequence[int]], generated: Sequence[int]) -> Tensor:
        return constrained_logits(logits_SV, texts, generated, self._config, self._eos_id)

    def _score(self, total: float, length: int, generated: int) -> float:
        return total / self._config.penalty(length)

    def _attainable(self, total: float, length: int, generated: int) -> float:
        return total / self._config.penalty(length)

    def _ranked(self, stored: Sequence[Hypothesis]) -> list[Hypothesis]:
        return sorted(stored, key=lambda one: one.score)[::-1]
