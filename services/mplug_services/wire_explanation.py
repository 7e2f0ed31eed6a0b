"""Between the messages of explanations and what the services work with."""

from __future__ import annotations

from typing import TypeAlias

from mplug.heat_maps import Explain, HeatMap
from mplug_api.v1 import explanation_pb2 as pb
from mplug_api.v1.caption_service_pb2 import CaptionRequest
from mplug_api.v1.rerank_service_pb2 import RerankRequest
from mplug_api.v1.vqa_service_pb2 import AnswerRequest
from mplug_services.errors import failed_precondition, invalid_argument
from mplug_services.served_model import ServedModel

ExplainedRequest: TypeAlias = CaptionRequest | AnswerRequest | RerankRequest


def read_explain(
    request: ExplainedRequest, count: int, field: str, model: ServedModel, limit: int
) -> Explain | None:
    """What a request wants to be explained; None: nothing.

    Args:
        request: with or without ExplainOptions.
        count: its items.
        field: path of the items.
        model: that is to be explained.
        limit: most items of an explained request.

    Raises:
        ServiceError: too many items, no such layer, or a model that cannot be explained.
    """
    if not request.HasField("explain"):
        return None
    if model.explained_layers == 0:
        raise failed_precondition(
            "NOT_EXPLAINED", f"{model.name} has no layer whose looks can be read; leave explain out"
        )
    if count > limit:
        raise invalid_argument(
            field, f"{count} items to explain; the limit is {limit}, so split them", reason="BATCH_TOO_LARGE"
        )
    layer = request.explain.layer if request.explain.HasField("layer") else None
    if layer is not None and not 0 <= layer < model.explained_layers:
        raise invalid_argument(
            "explain.layer",
            f"{layer} is no layer of {model.name}; it has those from 0 to {model.explained_layers - 1}",
            reason="OUT_OF_RANGE",
        )
    return Explain(layer)


def write_heat_map(heat_map: HeatMap) -> pb.HeatMap:
    """A map with its overlay."""
    height, width = heat_map.cells_HW.shape
    return pb.HeatMap(
        word=heat_map.word,
        tokens=heat_map.tokens,
        height=height,
        width=width,
        values=heat_map.cells_HW.ravel().tolist(),
        overlay=heat_map.overlay,
    )
