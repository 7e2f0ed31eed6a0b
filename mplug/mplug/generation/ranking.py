"""Choosing among given answers, as X-PLUG's and ALBEF's `rank_answer` does; ModelScope's package has no such thing.

Its quirks, kept:

1.  The k answers that are scored in full are those whose *first token* is likeliest. Among answers with the same first
    token that is no choice; we take the earlier ones in the list.
2.  An answer's score is log p(first token) + log p(all its tokens): the first token counts *twice*.
3.  The k scores go through a softmax, so probabilities depend on which answers were given.
4.  The reference appends "[SEP]" to answers as text and tokenizes them, so they end with the end token twice. Nothing
    is appended here: answers are scored as they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mplug.errors import MplugError
from mplug.generation.decoder import ScoringDecoder, StateT
from mplug.generation.engine import Start, pad_right


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One of an item's best answers."""

    index: int
    """Its place in the list of answers."""
    probability: float
    """Softmax over the answers that were scored in full."""
    log_likelihood: float
    """Sum of the log-probabilities of all its tokens but the starting one."""


def rank_answers(
    decoder: ScoringDecoder[StateT],
    start: Start[StateT],
    answers: Sequence[Sequence[int]],
    *,
    num_items: int,
    k: int = 128,
) -> list[tuple[RankedAnswer, ...]]:
    """Rank a list of answers for each item.

    Items are taken one at a time, so that none depends on the others.

    Args:
        decoder: what reads tokens.
        start: opens a state for some of the items, as for `stream`.
        answers: token ids, from the starting token to the last one that is to be scored.
        num_items: number of items.
        k: answers to score in full (X-PLUG's `k_test`: 128).

    Returns:
        Each item's k answers (all, if fewer are given), best first.

    Raises:
        MplugError: no answers, one shorter than two tokens or longer than the decoder's positions, or answers that
            start with different tokens.
    """
    _check(decoder, answers, k)
    return [_rank(decoder, start([item]), answers, k) for item in range(num_items)]


def _rank(
    decoder: ScoringDecoder[StateT], state: StateT, answers: Sequence[Sequence[int]], k: int
) -> tuple[RankedAnswer, ...]:
    logits_SV = decoder.step(torch.tensor([[answers[0][0]]]), state)
    all_first_A = logits_SV[0].float().log_softmax(-1).cpu()[torch.tensor([answer[1] for answer in answers])]
    candidates = all_first_A.sort(descending=True, stable=True).indices[:k].tolist()
    first_k = all_first_A[candidates]
    log_likelihood_k = first_k + _rest(decoder, state, [answers[index] for index in candidates])
    scores_k = first_k + log_likelihood_k
    order = scores_k.sort(descending=True, stable=True).indices.tolist()
    probabilities = scores_k.softmax(0).tolist()
    likelihoods = log_likelihood_k.tolist()
    return tuple(RankedAnswer(candidates[place], probabilities[place], likelihoods[place]) for place in order)


def _rest(decoder: ScoringDecoder[StateT], state: StateT, answers: Sequence[Sequence[int]]) -> Tensor:
    """Log-likelihoods (k,) of what follows each answer's first token."""
    lengths_k = torch.tensor([len(answer) - 2 for answer in answers])
    longest = int(lengths_k.max())
    if longest == 0:
        return torch.zeros(len(answers))
    state.repeat(len(answers))
    # An answer of its first token alone still reads one, to nobody's use.
    ids_kL, read_k = pad_right([answer[1 : max(len(answer) - 1, 2)] for answer in answers])
    targets_kL, _ = pad_right([[*answer[2:], *[0] * (longest + 2 - len(answer))] for answer in answers])
    log_probs_kL = decoder.score(ids_kL, state, targets_kL, lengths_S=read_k).cpu()
    real_kL = torch.arange(longest) < lengths_k[:, None]
    return log_probs_kL.where(real_kL, 0).sum(-1)


def _check(decoder: ScoringDecoder[StateT], answers: Sequence[Sequence[int]], k: int) -> None:
    if not answers:
        raise MplugError("there are no answers to rank; give at least one")
    if k < 1:
        raise MplugError(f"k is {k}; it must be at least 1")
    for index, answer in enumerate(answers):
        if not 2 <= len(answer) <= decoder.max_positions + 1:
            raise MplugError(
                f"answer {index} has {len(answer)} tokens; with the starting one it must have 2 to "
                f"{decoder.max_positions + 1}"
            )
        if answer[0] != answers[0][0]:
            raise MplugError(
                f"answer {index} starts with token {answer[0]}, answer 0 with {answers[0][0]}; all must start alike"
            )
