"""What decoding yields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One text."""

    ids: tuple[int, ...]
    """Prompt, then what was generated, the ending token included where it was."""
    score: float
    """Sum of the generated tokens' log-probabilities, or logits by open_clip's rules, divided by the length penalty;
    NaN where the model gave NaN, and the text ends before the token that it would have chosen."""
    log_probs: tuple[float, ...]
    """Of each generated token: its log-probability, or logit by open_clip's rules. It is of temperature 1 and after
    everything that the configuration forbids; their sum over the length penalty is the score."""


@dataclass(frozen=True, slots=True)
class Token:
    """The next token of a text, once it is certain.

    The tokens of an item's text number n, in order, are what its hypothesis number n has after the prompt.
    """

    item: int
    id: int
    log_prob: float
    """As of `Hypothesis`."""
    text: int = 0
    """Number of the hypothesis; beam search streams its best (0) alone."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An item's last event."""

    item: int
    hypotheses: tuple[Hypothesis, ...]
    """Of beam search best first; of sampling in the order of their random numbers."""


Event = Token | Finished
