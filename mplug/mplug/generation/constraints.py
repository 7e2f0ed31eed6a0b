"""From logits to log-probabilities, or logits still, with what a configuration forbids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mplug.generation.config import GenerationConfig

BANNED = -1e20
"""Log-probability of a forbidden token, the reference's; finite, so that forbidding everything forbids nothing."""


def constrained_log_probs(
    logits_SV: Tensor,
    texts: Sequence[Sequence[int]],
    generated: Sequence[int],
    config: GenerationConfig,
    eos_id: int,
) -> Tensor:
    """Log-probabilities of the next token.

    Repetition changes logits, before they are normalised; bans come after, as in the reference, so that the tokens
    that are left keep their log-probabilities.

    Args:
        logits_SV: (S, V), of any float type; may be overwritten.
        texts: the S sequences so far, prompts included.
        generated: how many tokens of each are not of its prompt.
        config: what to forbid.
        eos_id: token id that ends a text.

    Returns:
        float32 (S, V).
    """
    log_probs_SV = _weakened(logits_SV, texts, config).log_softmax(-1)
    _ban(log_probs_SV, texts, generated, config, eos_id)
    return log_probs_SV


def constrained_logits(
    logits_SV: Tensor,
    texts: Sequence[Sequence[int]],
    generated: Sequence[int],
    config: GenerationConfig,
    eos_id: int,
) -> Tensor:
    """Logits of the next token, float32 (S, V); arguments as of `constrained_log_probs`."""
    logits_SV = _weakened(logits_SV, texts, config)
    _ban(logits_SV, texts, generated, config, eos_id)
    return logits_SV


def repeating_tokens(text: Sequence[int], size: int) -> list[int]:
    """Tokens that would end a run of `size` tokens that the text has already; ascending."""
    last = tuple(text[len(text) - size + 1 :])
    starts = range(len(text) - size + 1)
    return sorted({text[at + size - 1] for at in starts if tuple(text[at : at + size - 1]) == last})


def _weakened(logits_SV: Tensor, texts: Sequence[Sequence[int]], config: GenerationConfig) -> Tensor:
    logits_SV = logits_SV.float()
    if config.repetition_penalty != 1:
        for row_V, text in zip(logits_SV, texts, strict=True):
            _penalise(row_V, sorted(set(text)), config.repetition_penalty)
    return logits_SV


def _ban(
    scores_SV: Tensor,
    texts: Sequence[Sequence[int]],
    generated: Sequence[int],
    config: GenerationConfig,
    eos_id: int,
) -> None:
    short = [row for row, count in enumerate(generated) if count < config.min_length]
    if short:
        rows = slice(None) if len(short) == len(generated) else torch.tensor(short, device=scores_SV.device)
        scores_SV[rows, eos_id] = BANNED
    if config.no_repeat_ngram_size:
        for row_V, text in zip(scores_SV, texts, strict=True):
            banned = repeating_tokens(text, config.no_repeat_ngram_size)
            row_V[torch.tensor(banned, dtype=torch.int64, device=row_V.device)] = BANNED


def _penalise(logits_V: Tensor, ids: list[int], penalty: float) -> None:
    index = torch.tensor(ids, dtype=torch.int64, device=logits_V.device)
    seen = logits_V[index]
    logits_V[index] = torch.where(seen > 0, seen / penalty, seen * penalty)
