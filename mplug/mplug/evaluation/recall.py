"""Retrieval metrics over score matrices (numpy in, percent out)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Relevance = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of queries, in percent, with something relevant among the first 1, 5 and 10."""

    at_1: float
    at_5: float
    at_10: float
    num_queries: int

    def __str__(self) -> str:
        return f"{self.at_1:.1f} / {self.at_5:.1f} / {self.at_10:.1f}"


def recall(scores: Matrix, relevant: Relevance) -> Recall:
    """Recall at 1, 5 and 10.

    Args:
        scores: (queries, candidates), greater is better.
        relevant: (queries, candidates); a query without any relevant candidate counts as a miss.
            A relevant candidate is ranked behind everything that scores above it; ties are in its favour
            only against the irrelevant ones of equal score.
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1)
    rank = (np.where(relevant, -np.inf, scores) > best[:, None]).sum(axis=1)
    rank = np.where(np.isfinite(best), rank, scores.shape[1])
    at = [float(100 * (rank < k).mean()) for k in (1, 5, 10)]
    return Recall(at_1=at[0], at_5=at[1], at_10=at[2], num_queries=len(scores))


def caption_relevance(captions: Sequence[Sequence[str]]) -> tuple[list[str], Relevance]:
    """Which pictures are right for which caption: those that bear the identical caption.

    Args:
        captions: The captions of each picture.

    Returns:
        All captions in order, and a (captions, pictures) matrix.
    """
    bearers: defaultdict[str, list[int]] = defaultdict(list)
    for picture, texts in enumerate(captions):
        for text in texts:
            bearers[text].append(picture)
    flat = [text for texts in captions for text in texts]
    relevant = np.zeros((len(flat), len(captions)), dtype=np.bool_)
    for row, text in enumerate(flat):
        relevant[row, bearers[text]] = True
    return flat, relevant
