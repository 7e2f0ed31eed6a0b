"""Flows over RerankService."""

from collections.abc import Sequence

from mplug_api.v1 import rerank_service_pb2 as pb
from mplug_services.client.batches import readable
from mplug_services.client.calls import Flow, ask
from mplug_services.client.errors import ClientError, from_status
from mplug_services.client.explanation_wire import explain_to_wire, heat_maps_from_wire
from mplug_services.client.generation_types import ExplainOptions, MatchOutcome, RerankResult
from mplug_services.client.model_flows import LimitsCache
from mplug_services.client.types import ImageSource
from mplug_services.client.wire import image_to_wire, model_from_wire, timings_from_wire


def rerank(
    text: str,
    candidates: Sequence[str | ImageSource],
    collection: str,
    explain: ExplainOptions | None,
    model: str,
    cache: LimitsCache,
) -> Flow[RerankResult]:
    """Scores candidates against a text in one request, which has one deadline for all of them."""
    limits = yield from cache.get()
    refused: list[MatchOutcome] = []

    def refuse(index: int, error: ClientError) -> None:
        refused.append(MatchOutcome(index, error=error))

    items = list(readable(candidates, _to_wire, limits, refuse))
    request = pb.RerankRequest(
        text=text,
        collection=collection,
        candidates=[candidate for _, candidate in items],
        explain=explain_to_wire(explain),
        model=model,
    )
    response = yield from ask("RerankService", "Rerank", request, pb.RerankResponse)
    outcomes = [*refused, *(_outcome(result, items[result.index][0]) for result in response.results)]
    return RerankResult(
        outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.index)),
        reranked_count=response.reranked_count + len(refused),
        truncated=response.truncated,
        model=model_from_wire(response.model),
        timings=timings_from_wire(response.timings),
    )


def _to_wire(candidate: str | ImageSource) -> pb.RerankCandidate:
    if isinstance(candidate, str):
        return pb.RerankCandidate(stored_id=candidate)
    return pb.RerankCandidate(image=image_to_wire(candidate))


def _outcome(result: pb.RerankResult, index: int) -> MatchOutcome:
    match result.WhichOneof("result"):
        case "match_probability":
            heat_maps = heat_maps_from_wire(result.heat_maps)
            return MatchOutcome(index, result.match_probability, heat_maps=heat_maps)
        case "error":
            return MatchOutcome(index, error=from_status(result.error))
        case _:
            return MatchOutcome(index)
