"""Greedy decoding and sampling: every sequence chooses for itself and stops at its first end."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mplug.generation.config import GenerationConfig
from mplug.generation.constraints import constrained_log_probs
from mplug.generation.events import Event, Finished, Hypothesis, Token
from mplug.generation.search import Move


@dataclass(slots=True)
class _Text:
    """One sequence."""

    ids: list[int]
    draws: random.Random
    """Its own random numbers: they depend on the item's seed and the text's number alone."""
    log_probs: list[float] = field(default_factory=list)
    hypothesis: Hypothesis | None = None
    """Set once the text has ended; the sequence is carried on until its item's last one has, and not looked at."""

    def end(self, score: float) -> None:
        self.hypothesis = Hypothesis(tuple(self.ids), score, tuple(self.log_probs))


@dataclass(slots=True)
class _Item:
    """One item's sequences."""

    number: int
    texts: list[_Text]
    generated: int = 0
    """Tokens of each that are not of the prompt; what ended texts are carried on with counts, too."""

    @property
    def is_over(self) -> bool:
        return all(text.hypothesis is not None for text in self.texts)


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
        # random.Random takes a string through SHA-512: the same numbers on every machine.
        self._items = [
            _Item(
                number,
                [_Text(list(prompt), random.Random(f"{seed}/{text}")) for text in range(config.num_results)],
            )
            for number, prompt, seed in zip(items, prompts, seeds, strict=True)
        ]
        self._is_first = True

    def advance(self, logits_SV: Tensor) -> Move:
        """Extend every text by one token; see `Search`."""
        if self._is_first:  # one sequence for each item so far
            logits_SV = logits_SV.repeat_interleave(self._config.num_results, 0)
            self._is_first = False
        chosen = iter(self._choose(logits_SV))
        events: list[Event] = []
        for item in self._items:
            item.generated += 1
            for place, text in enumerate(item.texts):
                token, log_prob = next(chosen)
                if text.hypothesis is None and math.isnan(log_prob):
                    text.end(math.nan)
                elif text.hypothesis is None:
                    self._extend(text, token, log_prob)
                    events.append(Token(item.number, token, log_prob, place))
            if item.is_over:
                ended = [text.hypothesis for text in item.texts if text.hypothesis is not None]
                events.append(Finished(item.number, tuple(ended)))
        return self._go_on(events)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these items alone; see `Search`."""
        self._items = [self._items[place] for place in places]

    def join(self, other: TokenSearch) -> None:
        """Take over another search's items; see `JoinableSearch`."""
        self._items += other._items

    def _choose(self, logits_SV: Tensor) -> list[tuple[int, float]]:
        texts = [text for item in self._items for text in item.texts]
        generated = [item.generated for item in self._items for _ in item.texts]
        ids = [text.ids for text in texts]
        log_probs_SV = constrained_log_probs(logits_SV, ids, generated, self._config, self._eos_id)
        if self._config.method == "greedy":
            tokens_S = log_probs_SV.argmax(-1)
        else:
            tokens_S = draw(log_probs_SV, [text.draws.random() for text in texts], self._config)
        chosen_S = log_probs_SV.gather(1, tokens_S[:, None])[:, 0]
        pairs = torch.stack([tokens_S.double(), chosen_S.double()], dim=1).tolist()
        return [(int(token), log_prob) for token, log_prob in pairs]

    def _extend(self, text: _Text, token: int, log_prob: float) -> None:
        text.ids.append(token)
        text.log_probs.append(log_prob)
        generated = len(text.log_probs)
        if token == self._eos_id or generated == self._config.max_length:
            text.end(sum(text.log_probs) / self._config.penalty(generated))

    def _go_on(self, events: list[Event]) -> Move:
        kept = [place for place, item in enumerate(self._items) if not item.is_over]
        self.keep(kept)
        return Move(
            events,
            kept,
            rows=[row for item in self._items for row in range(len(item.texts))],
            ids=[text.ids[-1] for item in self._items for text in item.texts],
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
