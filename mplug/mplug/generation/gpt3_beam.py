"""Chinese GPT-3's beam search, quirk by quirk.

Texts of the distributed GPT-3 with `do_sample=False` come from `DistributedGPT3.beam_search` (ModelScope,
models/nlp/gpt3/distributed_gpt3.py), which has it from Megatron-LM. Whoever wants them needs its search; here is all of
it:

1.  It is a search over candidates, see `mplug.generation.candidate_beam`; sums are of log-probabilities.
2.  The score of a hypothesis is (sum) / P, where P is the *full padded length*: the prompt and `max_length` tokens,
    wherever the text ended. Lengths, then, do not count: of two texts the one with the higher sum wins.
3.  An item ends when `beam_size` hypotheses are stored and the worst of them is at least as good as (best sum of this
    step) / (tokens generated). That divisor is the smaller one, and sums are negative: as soon as there are so many
    hypotheses, an item nearly always ends.
4.  The live beams of an item that ends so are dropped. At `max_length` they become hypotheses by the rule of all.
5.  Hypotheses are sorted by score; of equal scores the one stored *first* wins.
6.  There is no shortest length. The reference fills a text up with the end to P tokens; here it ends with one.

The divisors are to the power of `length_penalty`, which the reference fixes at 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mplug.generation.candidate_beam import CandidateBeamSearch
from mplug.generation.constraints import constrained_log_probs
from mplug.generation.events import Hypothesis


class Gpt3BeamSearch(CandidateBeamSearch):
    """Several items' beams at once; arguments as of `CandidateBeamSearch`."""

    def _values(self, logits_SV: Tensor, texts: Sequence[Sequence[int]], generated: Sequence[int]) -> Tensor:
        return constrained_log_probs(logits_SV, texts, generated, self._config, self._eos_id)

    def _score(self, total: float, length: int, generated: int) -> float:
        prompt = length - generated
        return total / self._config.penalty(prompt + self._config.max_length)

    def _attainable(self, total: float, length: int, generated: int) -> float:
        return total / self._config.penalty(generated)

    def _ranked(self, stored: Sequence[Hypothesis]) -> list[Hypothesis]:
        return sorted(stored, key=lambda one: one.score, reverse=True)
