"""Between the client's values and the messages of explanations, both ways."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from mplug_api.v1 import explanation_pb2 as pb
from mplug_services.client.generation_types import ExplainOptions, HeatMap
from mplug_services.client.types import Limits


def explain_to_wire(explain: ExplainOptions | None) -> pb.ExplainOptions | None:
    """What is to be explained, if anything."""
    return None if explain is None else pb.ExplainOptions(layer=explain.layer)


def heat_maps_from_wire(messages: Iterable[pb.HeatMap]) -> tuple[HeatMap, ...]:
    """Maps in their order."""
    return tuple(_heat_map(message) for message in messages)


def explained_limits(limits: Limits, explain: ExplainOptions | None) -> Limits:
    """What a request may hold, where its items are to be explained."""
    if explain is None:
        return limits
    return replace(limits, max_batch_size=min(limits.max_batch_size, limits.max_explained_items))


def _heat_map(message: pb.HeatMap) -> HeatMap:
    cells_HW = np.array(message.values, dtype=np.float32).reshape(message.height, message.width)
    return HeatMap(message.word, tuple(message.tokens), cells_HW, message.overlay)
