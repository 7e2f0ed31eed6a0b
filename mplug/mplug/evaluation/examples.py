"""Which examples stand for a model: the best, the median and the worst, by a metric and never by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

NUM_BEST, NUM_MEDIAN, NUM_WORST = 7, 6, 7


class Group(StrEnum):
    """Why an example is shown."""

    BEST = "best"
    MEDIAN = "median"
    WORST = "worst"


@dataclass(frozen=True, slots=True)
class Example:
    """One of those chosen."""

    id: str
    group: Group
    score: float


def choose_examples(scores: Mapping[str, float]) -> list[Example]:
    """Seven best, six from the middle and seven worst, best first; of fewer than twenty items, all of them.

    Equal scores are ordered by a hash of their ids, so that no one's order of the file decides who is shown.
    """
    order = sorted(scores, key=lambda id: (-scores[id], _hash(id)))
    best = min(NUM_BEST, (len(order) + 2) // 3)
    worst = min(NUM_WORST, (len(order) + 1) // 3)
    median = min(NUM_MEDIAN, len(order) - best - worst)
    start = (len(order) - median + best - worst) // 2
    chosen = [
        (Group.BEST, order[:best]),
        (Group.MEDIAN, order[start : start + median]),
        (Group.WORST, order[len(order) - worst :]),
    ]
    return [Example(id, group, scores[id]) for group, ids in chosen for id in ids]


def _hash(id: str) -> str:
    return hashlib.sha1(id.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
