"""From a text and pictures to probabilities of a match, as far as the time allows.

Every candidate goes its own way: its tokens come from the cache, or from its picture through the vision tower, and are
scored with the text. What goes together through the model is the queue's affair. Candidates begin in their order, a
bounded number at a time; when the time is up, those that are not through have no score.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mplug.heat_maps import Explain, HeatMap
from mplug.text.tokenizer import Tokens
from mplug_services.blocking import BlockingPool
from mplug_services.engine_seam import WorkQueue
from mplug_services.explain_work import ExplainMatch
from mplug_services.kept_pictures import KeptImage, KeptPictures, Picture, PictureSource
from mplug_services.prepare import PreparedImage, Preparer
from mplug_services.rerank_work import EncodeImage, MatchPair
from mplug_services.room import StageSeconds, run_when_room, stage_seconds
from mplug_services.served_model import ServedModel
from mplug_services.token_cache import TokenCache, TokenKey
from mplug_services.work import DeadlineExceededError, WorkItem, WorkResult

IN_FLIGHT = 32
"""Candidates of one request that are under way; tokens of so many are in memory, about 1 MB each."""
ENCODE_PATIENCE = 1.0
"""Seconds by which the vision tower is less urgent than scoring: what has its tokens is scored first."""
EXPLAIN_PATIENCE = 2.0
"""Seconds by which heat maps are less urgent than scores: what is scored in time counts without them."""

Outcome = float | Exception | None
"""Of a candidate: the probability of a match, an error, or None: the time was up."""
ImageTokens = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False)
class Reranked:
    """Outcomes in the order of the candidates."""

    outcomes: list[Outcome]
    truncated: bool
    """The text was longer than the model reads."""
    seconds: StageSeconds
    heat_maps: dict[int, HeatMap] = field(default_factory=dict)
    """By candidate, of those that were explained in time."""

    @property
    def probabilities(self) -> list[float | None]:
        """Of the candidates that were scored; None for the others."""
        return [each if isinstance(each, float) else None for each in self.outcomes]


class Reranker:
    """What RerankService and SearchService share.

    Args:
        model: the loaded model.
        engine: runs the work.
        preparer: decodes and tokenizes.
        cache: of image tokens.
        pictures: reads candidates' pictures.
        pool: where the cache's calls run.
    """

    def __init__(
        self,
        model: ServedModel,
        engine: WorkQueue,
        preparer: Preparer,
        cache: TokenCache,
        pictures: KeptPictures,
        pool: BlockingPool,
    ) -> None:
        self.model = model
        self._engine = engine
        self._preparer = preparer
        self._cache = cache
        self._pictures = pictures
        self._pool = pool

    async def rerank(
        self,
        text: str,
        candidates: Sequence[PictureSource | Exception],
        *,
        stop_at: float | None = None,
        patience: float,
        explain: Explain | None = None,
    ) -> Reranked:
        """Score candidates.

        Args:
            text: what they may match.
            candidates: pictures, the most important first; an error is its own outcome.
            stop_at: `time.monotonic()` at which to return what there is; None: when all are through.
            patience: seconds in which each wants to be served (see `Scheduler`).
            explain: what is wanted beside the probabilities; None: nothing. Whose picture is not there any more to be
                drawn on has that as its error.

        Raises:
            WorkError: the queue is full, or the engine stopped; nothing was scored.
            Exception: the text cannot be tokenized.
        """
        scheduler = self._engine.scheduler
        # Overload is refused before it costs anything; later on, room is waited for.
        scheduler.reserve(min(len(candidates), IN_FLIGHT))
        scheduler.release(min(len(candidates), IN_FLIGHT))
        started = time.monotonic()
        (tokens,) = await self._preparer.texts([text], self.model.tokenizer)
        if isinstance(tokens, Exception):
            raise tokens
        run = _Run(tokens, stop_at, patience, list(candidates), explain, prepare=time.monotonic() - started)
        try:
            async with asyncio.timeout(None if stop_at is None else max(0.0, stop_at - time.monotonic())):
                await self._run(run, candidates)
        except TimeoutError:
            pass
        return Reranked(run.outcomes(), tokens.truncated, run.seconds(), run.heat_maps)

    async def _run(self, run: _Run, candidates: Sequence[PictureSource | Exception]) -> None:
        places = asyncio.Semaphore(IN_FLIGHT)
        async with asyncio.TaskGroup() as group:
            for number, candidate in enumerate(candidates):
                if not isinstance(candidate, Exception):
                    await places.acquire()
                    task = group.create_task(self._candidate(run, number, candidate))
                    task.add_done_callback(lambda _: places.release())

    async def _candidate(self, run: _Run, number: int, source: PictureSource) -> None:
        try:
            tokens = await self._tokens(run, source)
            pair = MatchPair(ids=run.text.ids, tokens=tokens, deadline=run.stop_at, patience=run.patience)
            run.settled[number] = (await self._work(run, pair)).expect(float)
            if run.explain is not None:
                run.heat_maps[number] = await self._explain(run, run.explain, source, tokens)
        except DeadlineExceededError:
            pass
        except Exception as error:
            run.settled[number] = error

    async def _explain(
        self, run: _Run, explain: Explain, source: PictureSource, tokens: ImageTokens
    ) -> HeatMap:
        patience = run.patience + EXPLAIN_PATIENCE
        item = ExplainMatch(
            ids=run.text.ids, tokens=tokens, layer=explain.layer, deadline=run.stop_at, patience=patience
        )
        cells_HW: NDArray[np.float32] = (await self._work(run, item)).expect(np.ndarray)
        picture = await self._pictures.read(source)
        (overlay,) = await self._preparer.overlays(picture.data, [cells_HW])
        return HeatMap("", (), cells_HW, overlay)

    async def _tokens(self, run: _Run, source: PictureSource) -> ImageTokens:
        if isinstance(source, KeptImage):  # its name is known before it is read
            tokens = await self._pool.run_patiently(self._cache.get, self._key(source.sha256))
            if tokens is not None:
                return tokens
        picture = await self._pictures.read(source)
        if not isinstance(source, KeptImage):
            tokens = await self._pool.run_patiently(self._cache.get, self._key(picture.sha256))
            if tokens is not None:
                return tokens
        return await self._encode(run, picture)

    async def _encode(self, run: _Run, picture: Picture) -> ImageTokens:
        started = time.monotonic()
        (prepared,) = await self._preparer.images([picture.data], self.model.image_size)
        run.prepare = max(run.prepare, time.monotonic() - started)
        if not isinstance(prepared, PreparedImage):
            raise prepared
        patience = run.patience + ENCODE_PATIENCE
        item = EncodeImage(pixels=prepared.pixels, deadline=run.stop_at, patience=patience)
        tokens: NDArray[np.float32] = (await self._work(run, item)).expect(np.ndarray)
        return await self._pool.run_patiently(self._cache.store, self._key(picture.sha256), tokens)

    async def _work(self, run: _Run, item: WorkItem) -> WorkResult:
        """The model's result, as soon as the queue has room."""
        result = await run_when_room(self._engine, item)
        run.results.append(result)
        return result

    def _key(self, image_sha256: str) -> TokenKey:
        return TokenKey(image_sha256, self.model.vision_fingerprint)


@dataclass(slots=True, eq=False)
class _Run:
    """One request on its way."""

    text: Tokens
    stop_at: float | None
    patience: float
    candidates: list[PictureSource | Exception]
    explain: Explain | None
    prepare: float
    """Seconds of the text or picture that took longest."""
    results: list[WorkResult] = field(default_factory=list)
    settled: dict[int, float | Exception] = field(default_factory=dict)
    heat_maps: dict[int, HeatMap] = field(default_factory=dict)

    def outcomes(self) -> list[Outcome]:
        """Of all candidates."""
        return [
            each if isinstance(each, Exception) else self.settled.get(number)
            for number, each in enumerate(self.candidates)
        ]

    def seconds(self) -> StageSeconds:
        """Where the time went. Of results of one batch, the last to be settled knows its whole time."""
        self.results.sort(key=lambda result: result.forward_seconds)
        return stage_seconds(self.prepare, self.results)
