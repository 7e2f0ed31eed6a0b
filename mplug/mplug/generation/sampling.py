"""Greedy decoding and sampling: every sequence chooses for itself and stops at its first end."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mplug.generation.config import GenerationConfig
from mplug.generation.constraints import constrained_log_probs
from mplug.generation.events import Event, Finished, Hypothesis, Token
from mplug.generation.search import Move, broken


@dataclass(slots=True)
class _Text:
    """One sequence."""

    ids: list[int]
    draws: random.Random
    """Its own random numbers: they depend on the item's seed and the text's number alone."""
    log_prob: float = 0.0
    hypothesis: Hypothesis | None = None
    """Set once the text has ended; the sequence is carried on until its item's last one has, and not looked at."""


class TokenSearch:
    """Greedy or sampled texts of several items at once.

    Args:
        config: method, lengths, filters.
        eos_id: token id that ends a text.
        items: the items' numbers, for events.
        prompts: their first tokens.
        seeds: one for each item.
    """

    def __init__(
        self,
        config: GenerationConfig,
        eos_id: int,
        items: Sequence[int],
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
    ) -> None:
        self._config = config
        self._eos_id = eos_id
        self._numbers = list(items)
        # random.Random takes a string through SHA-512: the same numbers on every machine.
        self._texts = [
            [_Text(list(prompt), random.Random(f"{seed}/{number}")) for number in range(config.num_results)]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        self._generated = 0

    def advance(self, logits_SV: Tensor) -> Move:
        """Extend every text by one token; see `Search`."""
        if self._generated == 0:  # one sequence for each item so far
            logits_SV = logits_SV.repeat_interleave(self._config.num_results, 0)
        chosen = iter(self._choose(logits_SV))
        self._generated += 1
        events: list[Event] = []
        for number, texts in zip(self._numbers, self._texts, strict=True):
            for place, text in enumerate(texts):
                token, log_prob = next(chosen)
                if text.hypothesis is None and math.isnan(log_prob):
                    text.hypothesis = broken(text.ids)
                elif text.hypothesis is None:
                    self._extend(text, token, log_prob)
                    events.append(Token(number, token, place))
            ended = tuple(text.hypothesis for text in texts if text.hypothesis is not None)
            if len(ended) == len(texts):
                events.append(Finished(number, ended))
        return self._go_on(events)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these items alone; see `Search`."""
        self._numbers = [self._numbers[place] for place in places]
        self._texts = [self._texts[place] for place in places]

    def _choose(self, logits_SV: Tensor) -> list[tuple[int, float]]:
        texts = [text for item in self._texts for text in item]
        ids = [text.ids for text in texts]
        log_probs_SV = constrained_log_probs(logits_SV, ids, self._generated, self._config, self._eos_id)
        if self._config.method == "greedy":
            tokens_S = log_probs_SV.argmax(-1)
        else:
            tokens_S = draw(log_probs_SV, [text.draws.random() for text in texts], self._config)
        chosen_S = log_probs_SV.gather(1, tokens_S[:, None])[:, 0]
        pairs = torch.stack([tokens_S.double(), chosen_S.double()], dim=1).tolist()
        return [(int(token), log_prob) for token, log_prob in pairs]

    def _extend(self, text: _Text, token: int, log_prob: float) -> None:
        text.ids.append(token)
        text.log_prob += log_prob
        if token == self._eos_id or self._generated == self._config.max_length:
            score = text.log_prob / self._config.penalty(self._generated)
            text.hypothesis = Hypothesis(tuple(text.ids), score)

    def _go_on(self, events: list[Event]) -> Move:
        kept = [
            place for place, texts in enumerate(self._texts) if any(text.hypothesis is None for text in texts)
        ]
        self.keep(kept)
        return Move(
            events,
            kept,
            rows=[place for texts in self._texts for place in range(len(texts))],
            ids=[text.ids[-1] for texts in self._texts for text in texts],
        )


def draw(log_probs_SV: Tensor, uniforms: Sequence[float], config: GenerationConfig) -> Tensor:
    """Draw a token for each row, by where a number falls on the sum of probabilities in the order of ids.

    Args:
        log_probs_SV: float32 (S, V).
        uniforms: a number from [0, 1) for each row.
        config: temperature, then top_k, then top_p.

    Returns:
        int64 (S,).
    """
    probs_SV = probabilities(log_probs_SV, config)
    sums_SV = probs_SV.double().cumsum(-1)
    total_S1 = sums_SV[:, -1:]
    targets_S1 = torch.tensor(uniforms, dtype=torch.float64, device=sums_SV.device)[:, None] * total_S1
    tokens_S = torch.searchsorted(sums_SV, targets_S1, right=True)[:, 0]
    return tokens_S.clamp_(max=probs_SV.shape[-1] - 1)  # a target may be rounded up to the total


def probabilities(log_probs_SV: Tensor, config: GenerationConfig) -> Tensor:
    """What is drawn from: float32 (S, V), 0 for tokens that the filters leave out; rows need not sum to 1.

    What is kept is what ModelScope's filters keep, except that equals are never parted: of tokens as likely as the last
    that is kept, all are. Arguments as of `draw`.
    """
    scaled_SV = log_probs_SV / config.temperature
    if 0 < config.top_k < scaled_SV.shape[-1]:
        least_S1 = scaled_SV.topk(config.top_k).values[:, -1:]
        scaled_SV = scaled_SV.masked_fill(scaled_SV < least_S1, -torch.inf)
    probs_SV = scaled_SV.softmax(-1)
    if config.top_p < 1:
        probs_SV = _nucleus(probs_SV, config.top_p)
    return probs_SV


def _nucleus(probs_SV: Tensor, top_p: float) -> Tensor:
    # A token stays if those likelier than it have less than top_p together; its equals stay with it.
    ordered_SV = probs_SV.sort(-1, descending=True).values
    before_SV = ordered_SV.cumsum(-1) - ordered_SV
    least_S1 = ordered_SV.masked_fill(before_SV >= top_p, 2).amin(-1, keepdim=True)
    return probs_SV.masked_fill(probs_SV < least_S1, 0)
