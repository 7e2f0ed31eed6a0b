"""The order of hits of which some were looked at again: cosine and match probability, made one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

RANK_OFFSET = 60
"""The k of reciprocal rank fusion, from Cormack, Clarke and Buettcher, SIGIR 2009."""


class ScoreFusion(StrEnum):
    """What orders the hits that were reranked."""

    MATCH = "match"
    """The match probability alone, as the reference does."""
    SUM = "sum"
    """The sum of the match probability and the cosine."""
    RECIPROCAL_RANK = "reciprocal_rank"
    """Reciprocal ranks of both, added."""


class Order(StrEnum):
    """What orders hits, where quality is measured."""

    ITC = "itc"
    """The cosine: as they were retrieved."""
    ITM = "itm"
    """Those that were reranked by match probability, the others as they were retrieved."""
    BOTH = "both"
    """Those that were reranked by cosine and match probability together."""


def fused_order(
    cosines: Sequence[float], probabilities: Sequence[float | None], fusion: ScoreFusion
) -> list[int]:
    """The places of hits, best first.

    The hits that were reranked change places among themselves. One that was not keeps its own, since nothing new
    is known of it: the deadline came before its turn, or its picture is not kept.

    Args:
        cosines: of the hits, best first.
        probabilities: of a match; None = not reranked.
        fusion: what the reranked are ordered by. Equals keep their order.

    Returns:
        A permutation of the places.
    """
    reranked = [place for place, each in enumerate(probabilities) if each is not None]
    matches = [each for each in probabilities if each is not None]
    scores = _FUSED[fusion]([cosines[place] for place in reranked], matches)
    order = list(range(len(cosines)))
    for place, best in zip(reranked, _descending(scores), strict=True):
        order[place] = reranked[best]
    return order


def _match(_: Sequence[float], matches: Sequence[float]) -> list[float]:
    return list(matches)


def _sum(cosines: Sequence[float], matches: Sequence[float]) -> list[float]:
    return [cosine + match for cosine, match in zip(cosines, matches, strict=True)]


def _reciprocal_rank(cosines: Sequence[float], matches: Sequence[float]) -> list[float]:
    fused = [0.0] * len(matches)
    for scores in (cosines, matches):
        for rank, place in enumerate(_descending(scores), start=1):
            fused[place] += 1 / (RANK_OFFSET + rank)
    return fused


def _descending(scores: Sequence[float]) -> list[int]:
    """Places by score, the greatest first; equals in their order."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


_FUSED: Mapping[ScoreFusion, Callable[[Sequence[float], Sequence[float]], list[float]]] = {
    ScoreFusion.MATCH: _match,
    ScoreFusion.SUM: _sum,
    ScoreFusion.RECIPROCAL_RANK: _reciprocal_rank,
}
