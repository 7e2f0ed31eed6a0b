"""CIDEr-D of single candidates against references that are tokenised once: the reward of caption optimisation.

Vedantam et al., CVPR 2015 (arXiv 1411.5726), in the form of the COCO caption server: n-grams of one to four tokens,
clipped counts, a Gaussian penalty on the difference in length. Equal to pycocoevalcap's `Cider` on the same tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_NGRAM = 4
SIGMA = 6.0
"""Width of the length penalty, in tokens."""
SCALE = 10.0
"""What pycocoevalcap multiplies by, so that a caption like every reference comes to 10."""

Tokens = Sequence[Hashable]
"""Words, characters or token ids; candidates and references of the same kind."""


@dataclass(frozen=True, slots=True)
class _Vector:
    """tf-idf weights of one text, by length of n-gram."""

    weights: tuple[Mapping[Tokens, float], ...]
    norms: tuple[float, ...]
    num_bigrams: int
    """The length that the reference compares: it counts bigrams, which are one fewer than words."""


class CiderReward:
    """Scores candidates against the references of their pictures.

    Args:
        references: of each picture by its id, tokenised; document frequencies count these pictures.

    Raises:
        ValueError: a picture without references.
    """

    def __init__(self, references: Mapping[str, Sequence[Tokens]]) -> None:
        if lacking := [id for id, texts in references.items() if not texts]:
            raise ValueError(f"{lacking[0]!r} has no references; leave such pictures out")
        self._references = references
        self._log_pictures = math.log(len(references)) if references else 0.0
        pictures: Counter[Tokens] = Counter()
        for texts in references.values():
            pictures.update({ngram for text in texts for ngram in _ngrams(text)})
        self._log_frequency = {ngram: math.log(count) for ngram, count in pictures.items()}

    def score(self, id: str, candidate: Tokens) -> float:
        """CIDEr-D of one candidate for the picture `id`, from 0 to 10.

        Raises:
            KeyError: no references are known of it.
        """
        return float(self.scores([id], [candidate])[0])

    def scores(self, ids: Sequence[str], candidates: Sequence[Tokens]) -> NDArray[np.float64]:
        """CIDEr-D of candidates for the pictures `ids`, from 0 to 10; a picture may come several times.

        Raises:
            KeyError: no references are known of a picture.
        """
        known = {id: [self._vector(text) for text in self._references[id]] for id in dict.fromkeys(ids)}
        found = [
            self._consensus(self._vector(candidate), known[id])
            for id, candidate in zip(ids, candidates, strict=True)
        ]
        return np.array(found, dtype=np.float64)

    def _vector(self, tokens: Tokens) -> _Vector:
        weights: tuple[dict[Tokens, float], ...] = tuple({} for _ in range(MAX_NGRAM))
        for ngram, count in _ngrams(tokens).items():
            rarity = self._log_pictures - self._log_frequency.get(ngram, 0.0)
            weights[len(ngram) - 1][ngram] = count * rarity
        norms = tuple(math.sqrt(sum(weight**2 for weight in of_n.values())) for of_n in weights)
        return _Vector(weights, norms, max(len(tokens) - 1, 0))

    def _consensus(self, candidate: _Vector, references: Sequence[_Vector]) -> float:
        total = sum(_similarity(candidate, reference) for reference in references)
        return SCALE * total / (MAX_NGRAM * len(references))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Sum over n of the clipped cosines."""
    total = 0.0
    for n in range(MAX_NGRAM):
        norm = candidate.norms[n] * reference.norms[n]
        if norm == 0.0:
            continue
        theirs = reference.weights[n]
        dot = sum(
            min(weight, theirs[ngram]) * theirs[ngram]
            for ngram, weight in candidate.weights[n].items()
            if ngram in theirs
        )
        total += dot / norm
    return total * math.exp(-((candidate.num_bigrams - reference.num_bigrams) ** 2) / (2 * SIGMA**2))


def _ngrams(tokens: Tokens) -> Counter[Tokens]:
    whole = tuple(tokens)
    return Counter(
        whole[start : start + n] for n in range(1, MAX_NGRAM + 1) for start in range(len(whole) - n + 1)
    )
