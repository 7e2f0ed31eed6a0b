"""Metrics of rankings: which ids were found, best first, against how relevant they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mplug.evaluation.recall import Recall, recall

DEPTH = 10
"""Places of a ranking that count."""

Ranking = Sequence[str]
Grades = Mapping[str, float]


def ndcg(ranking: Ranking, grades: Grades) -> float:
    """Normalised discounted cumulative gain of the first 10 places, from 0 to 1.

    Jaervelin and Kekaelaeinen, ACM TOIS 2002: a hit at place i (from 1 on) gains its grade / log2(i + 1); the
    sum is divided by that of the best ranking there could be, all relevant pictures first, the highest grades
    before the others.

    Args:
        ranking: ids, each once, best first.
        grades: by id; at least one is above 0.
    """
    best = _dcg(sorted(grades.values(), reverse=True))
    return _dcg([grades.get(id, 0.0) for id in ranking]) / best


def ranking_recall(rankings: Sequence[Ranking], grades: Sequence[Grades]) -> Recall:
    """Share of queries, in percent, with something relevant among the first 1, 5 and 10.

    Args:
        rankings: of each query, ids, best first; at least one.
        grades: of each query.
    """
    relevant = np.zeros((len(rankings), DEPTH), dtype=np.bool_)
    for row, ranking, query in zip(relevant, rankings, grades, strict=True):
        row[: len(ranking)] = [id in query for id in ranking[:DEPTH]]
    descending = np.broadcast_to(-np.arange(DEPTH, dtype=np.float32), relevant.shape)
    return recall(descending, relevant)


def _dcg(gains: Sequence[float]) -> float:
    # fsum: the same gains in the same places are the same sum, so that a perfect ranking is 1 exactly.
    return math.fsum(gain / math.log2(place + 1) for place, gain in enumerate(gains[:DEPTH], start=1))
