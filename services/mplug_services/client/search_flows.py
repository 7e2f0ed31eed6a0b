"""Flows over SearchService.Search."""

from collections.abc import Sequence

from mplug_api.v1 import search_service_pb2
from mplug_index.filters import Filter
from mplug_services.client.calls import Flow, ask
from mplug_services.client.generation_types import ScoreFusion
from mplug_services.client.generation_wire import fusion_to_wire
from mplug_services.client.types import FloatVector, ImageSource, Part, SearchHit, SearchResult
from mplug_services.client.wire import (
    filter_to_wire,
    model_from_wire,
    part_to_wire,
    payload_from_wire,
    timings_from_wire,
)


def search(
    collection: str,
    *,
    text: str | None,
    image: ImageSource | None,
    vector: FloatVector | None,
    stored_id: str | None,
    parts: Sequence[Part],
    filter: Filter | None,
    top_k: int,
    rerank_top_k: int,
    score_fusion: ScoreFusion,
    caption_results: bool,
    model: str,
    rerank_model: str,
    caption_model: str,
) -> Flow[SearchResult]:
    """Searches a collection by everything that is given, added up."""
    request = search_service_pb2.SearchRequest(
        collection=collection,
        parts=[part_to_wire(part) for part in (*_short_parts(text, image, vector, stored_id), *parts)],
        filter=filter_to_wire(filter),
        top_k=top_k,
        rerank_top_k=rerank_top_k,
        score_fusion=fusion_to_wire(score_fusion),
        caption_results=caption_results,
        model=model,
        rerank_model=rerank_model,
        caption_model=caption_model,
    )
    response = yield from ask("SearchService", "Search", request, search_service_pb2.SearchResponse)
    return SearchResult(
        hits=tuple(_hit(hit) for hit in response.hits),
        model=model_from_wire(response.model),
        timings=timings_from_wire(response.timings),
        truncated_parts=tuple(response.truncated_parts),
        reranked_count=response.reranked_count,
        rerank_model=model_from_wire(response.rerank_model) if response.HasField("rerank_model") else None,
    )


def _hit(hit: search_service_pb2.SearchHit) -> SearchHit:
    return SearchHit(
        id=hit.id,
        score=hit.score,
        payload=payload_from_wire(hit.payload),
        match_probability=hit.match_probability if hit.HasField("match_probability") else None,
        caption=hit.caption if hit.HasField("caption") else None,
    )


def _short_parts(
    text: str | None, image: ImageSource | None, vector: FloatVector | None, stored_id: str | None
) -> list[Part]:
    parts = []
    if text is not None:
        parts.append(Part(text=text))
    if image is not None:
        parts.append(Part(image=image))
    if vector is not None:
        parts.append(Part(vector=vector))
    if stored_id is not None:
        parts.append(Part(stored_id=stored_id))
    return parts
