"""RerankService: how well pictures match a text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from grpc import aio

from mplug.heat_maps import HeatMap
from mplug_api.v1 import rerank_service_pb2 as pb
from mplug_api.v1.rerank_service_pb2_grpc import RerankServiceServicer
from mplug_index.errors import PointNotFoundError
from mplug_services import wire
from mplug_services.blocking import BlockingPool
from mplug_services.collection_store import CollectionStore
from mplug_services.config import ServeConfig
from mplug_services.errors import ServiceError, error_status, failed_precondition, invalid_argument
from mplug_services.kept_pictures import PictureSource, source_of
from mplug_services.model_choice import ModelChoice
from mplug_services.reranker import Outcome
from mplug_services.wire_explanation import read_explain, write_heat_map

Context = aio.ServicerContext[Any, Any]  # Any: as the generated servicers have it

RERANK_PATIENCE = 2.0
"""Seconds: somebody waits for it, and it is more work than a search."""


class RerankService(RerankServiceServicer):
    """The servicer. RPC names are those of the API (N802).

    Args:
        models: where the reranker is.
        collections: the index, for candidates that are named by id; None where this server has no data.
        pool: where the index's calls run.
        config: limits.
    """

    def __init__(
        self,
        models: ModelChoice,
        collections: CollectionStore | None,
        pool: BlockingPool,
        config: ServeConfig,
    ) -> None:
        self._models = models
        self._collections = collections
        self._pool = pool
        self._config = config

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:  # noqa: N802
        """Score candidates until the deadline is near."""
        started = time.monotonic()
        reranker = await self._models.reranker(request.model)
        wire.check_text(request.text, "text", self._config.max_text_bytes)
        wire.check_batch(len(request.candidates), "candidates", self._config.max_batch_size)
        limit = self._config.max_explained_items
        explain = read_explain(request, len(request.candidates), "candidates", reranker.model, limit)
        candidates = await self._sources(request)
        reranked = await reranker.rerank(
            request.text,
            candidates,
            stop_at=stop_time(wire.read_deadline(context)),
            patience=RERANK_PATIENCE,
            explain=explain,
        )
        results = [
            _write_result(place, outcome, request.candidates[place], reranked.heat_maps.get(place))
            for place, outcome in enumerate(reranked.outcomes)
        ]
        return pb.RerankResponse(
            results=results,
            reranked_count=sum(outcome is not None for outcome in reranked.outcomes),
            truncated=reranked.truncated,
            model=wire.write_model(reranker.model),
            timings=wire.write_timings(reranked.seconds, started),
        )

    async def _sources(self, request: pb.RerankRequest) -> list[PictureSource | Exception]:
        kinds = [candidate.WhichOneof("candidate") for candidate in request.candidates]
        stored: dict[str, PictureSource | Exception] = {}
        if "stored_id" in kinds:
            ids = [each.stored_id for each in request.candidates if each.HasField("stored_id")]
            stored = await self._stored(request.collection, ids)
        sources: list[PictureSource | Exception] = []
        for place, (kind, candidate) in enumerate(zip(kinds, request.candidates, strict=True)):
            if kind == "stored_id":
                sources.append(stored[candidate.stored_id])
            else:
                sources.append(_read_image(candidate, place))
        return sources

    async def _stored(self, collection: str, ids: Sequence[str]) -> dict[str, PictureSource | Exception]:
        if not collection:
            raise invalid_argument(
                "collection", "candidates are named by id; say of which collection", reason="NO_COLLECTION"
            )
        if self._collections is None:
            raise failed_precondition(
                "NO_COLLECTIONS",
                "this server has no collections (services has neither index nor search); send images",
            )
        points, missing = await self._pool.run(self._collections.database.get, collection, ids)
        found: dict[str, PictureSource | Exception] = {
            id: PointNotFoundError(f"collection {collection!r} has no point {id[:200]!r}") for id in missing
        }
        for point in points:
            try:
                found[point.id] = source_of(point.payload, point.id)
            except ServiceError as error:
                found[point.id] = error
        return found


def stop_time(deadline: float | None) -> float | None:
    """When to stop scoring, so that the answer is with the client by its deadline.

    A tenth of the time that is left is for the way back, at least 50 ms (on a machine with more work than cores,
    answers took up to 40) and at most a second.
    """
    if deadline is None:
        return None
    return deadline - min(1.0, max(0.05, 0.1 * (deadline - time.monotonic())))


def _read_image(candidate: pb.RerankCandidate, place: int) -> PictureSource | Exception:
    field = f"candidates[{place}]"
    if not candidate.HasField("image"):
        return invalid_argument(
            field, "the candidate has neither stored_id nor image", reason="EMPTY_CANDIDATE"
        )
    try:
        return wire.read_image(candidate.image, f"{field}.image")
    except ServiceError as error:
        return error


def _write_result(
    place: int, outcome: Outcome, candidate: pb.RerankCandidate, heat_map: HeatMap | None
) -> pb.RerankResult:
    if outcome is None:
        return pb.RerankResult(index=place, not_reached=True)
    if isinstance(outcome, Exception):
        field = f"candidates[{place}].{candidate.WhichOneof('candidate')}"
        return pb.RerankResult(index=place, error=error_status(outcome, field=field))
    heat_maps = [] if heat_map is None else [write_heat_map(heat_map)]
    return pb.RerankResult(index=place, match_probability=outcome, heat_maps=heat_maps)
