"""What a search may do with its hits: look at the best of them again, and caption them. It never fails the search."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mplug.score_fusion import ScoreFusion, fused_order
from mplug_index.types import ScoredPoint
from mplug_services.embedder import SEARCH_PATIENCE
from mplug_services.errors import ServiceError
from mplug_services.generation_options import GenerationSettings
from mplug_services.generator import Generator
from mplug_services.kept_pictures import KeptPictures, PictureSource, source_of
from mplug_services.reranker import Reranker
from mplug_services.room import StageSeconds

logger = logging.getLogger(__name__)

CAPTIONS_AT_ONCE = 16
"""Hits of one search that are captioned at the same time."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A search's hit."""

    point: ScoredPoint
    match_probability: float | None = None
    caption: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RerankedHits:
    """Hits in their new order."""

    hits: list[Hit]
    reranked_count: int
    seconds: StageSeconds


async def rerank_hits(
    reranker: Reranker,
    text: str,
    points: Sequence[ScoredPoint],
    *,
    count: int,
    fusion: ScoreFusion,
    stop_at: float | None,
) -> RerankedHits:
    """Look at the best hits again, together with the text.

    Args:
        reranker: scores them.
        text: of the query.
        points: best first.
        count: how many of them.
        fusion: what orders them after that.
        stop_at: `time.monotonic()` at which to return what there is.
    """
    try:
        reranked = await reranker.rerank(
            text, [_source(each) for each in points[:count]], stop_at=stop_at, patience=SEARCH_PATIENCE
        )
    except Exception:
        logger.warning("a search was answered without reranking", exc_info=True)
        return RerankedHits([Hit(point) for point in points], 0, StageSeconds())
    probabilities = [*reranked.probabilities, *[None] * len(points[count:])]
    order = fused_order([point.score for point in points], probabilities, fusion)
    scored = sum(each is not None for each in probabilities)
    return RerankedHits(
        [Hit(points[place], probabilities[place]) for place in order], scored, reranked.seconds
    )


async def caption_hits(
    generator: Generator,
    settings: GenerationSettings,
    pictures: KeptPictures,
    hits: Sequence[Hit],
    *,
    stop_at: float | None,
) -> list[Hit]:
    """Caption hits, as far as their pictures are kept and the time allows.

    Args:
        generator: describes pictures.
        settings: of the captions.
        pictures: reads the pictures.
        hits: in the order of importance.
        stop_at: `time.monotonic()` at which to return what there is.

    Returns:
        The hits in their order, with their captions.
    """
    captions: dict[int, str] = {}
    places = asyncio.Semaphore(CAPTIONS_AT_ONCE)

    async def caption(number: int, source: PictureSource) -> None:
        try:
            picture = await pictures.read(source)
            batch = await generator.caption(
                [picture.data], settings, deadline=stop_at, patience=SEARCH_PATIENCE
            )
            for outcome in batch.outcomes:
                if outcome.error is not None:
                    raise outcome.error
                captions[number] = outcome.texts[0].text
        except Exception as error:
            logger.info("a hit was left without its caption: %s", error)

    try:
        async with asyncio.timeout(None if stop_at is None else max(0.0, stop_at - time.monotonic())):
            async with asyncio.TaskGroup() as group:
                for number, hit in enumerate(hits):
                    source = _source(hit.point)
                    if not isinstance(source, Exception):
                        await places.acquire()
                        task = group.create_task(caption(number, source))
                        task.add_done_callback(lambda _: places.release())
    except TimeoutError:
        logger.info("a search's time was up after %d of %d captions", len(captions), len(hits))
    return [Hit(hit.point, hit.match_probability, captions.get(number)) for number, hit in enumerate(hits)]


def _source(hit: ScoredPoint) -> PictureSource | Exception:
    try:
        return source_of(hit.point.payload, hit.point.id)
    except ServiceError as error:
        return error
