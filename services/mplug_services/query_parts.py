"""A search's query parts: texts, pictures, vectors and stored ids, on their way to what the index is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug_api.v1 import search_service_pb2 as pb
from mplug_index.types import QueryPart
from mplug_services import wire
from mplug_services.config import ServeConfig
from mplug_services.embedder import EmbedBatch
from mplug_services.errors import ServiceError, invalid_argument, to_failure
from mplug_services.image_reader import ImageSource


@dataclass(slots=True)
class Parts:
    """A query's parts by place, on their way to vectors."""

    weights: list[float]
    texts: dict[int, str]
    images: dict[int, ImageSource]
    vectors: dict[int, NDArray[np.float32]]
    stored_ids: dict[int, str]

    def finished(self) -> list[QueryPart]:
        """All parts in order."""
        return [
            QueryPart(vector=self.vectors.get(place), stored_id=self.stored_ids.get(place), weight=weight)
            for place, weight in enumerate(self.weights)
        ]


def read_parts(messages: Sequence[pb.QueryPart], config: ServeConfig) -> Parts:
    """Read a query's parts within a server's limits.

    Raises:
        ServiceError: none, too many, or one that cannot be; names it.
    """
    if not messages:
        raise invalid_argument(
            "parts",
            "the query is empty; give a text, an image, a vector or a stored_id",
            reason="EMPTY_QUERY",
        )
    wire.check_batch(len(messages), "parts", config.max_query_parts)
    parts = Parts([], {}, {}, {}, {})
    for place, message in enumerate(messages):
        field = f"parts[{place}]"
        parts.weights.append(wire.read_weight(message, field))
        kind = message.WhichOneof("part")
        if kind == "text":
            wire.check_text(message.text, f"{field}.text", config.max_text_bytes)
            parts.texts[place] = message.text
        elif kind == "image":
            parts.images[place] = wire.read_image(message.image, f"{field}.image")
        elif kind == "vector":
            parts.vectors[place] = wire.read_vector(message.vector, f"{field}.vector")
        elif kind == "stored_id":
            parts.stored_ids[place] = message.stored_id
        else:
            raise invalid_argument(
                field, "the part has none of text, image, vector and stored_id", reason="EMPTY_PART"
            )
    return parts


def take_vectors(parts: Parts, places: Sequence[int], batch: EmbedBatch, kind: str) -> None:
    """Vectors to their places.

    Args:
        parts: of the query.
        places: of those that were embedded.
        batch: their outcomes, in this order.
        kind: `text` or `image`, for the path of a part that failed.

    Raises:
        ServiceError: a part has no vector; names it.
    """
    for place, outcome in zip(places, batch.outcomes, strict=True):
        if outcome.vector is None:
            assert outcome.error is not None, "an outcome has a vector or an error"
            raise ServiceError(to_failure(outcome.error, field=f"parts[{place}].{kind}")) from outcome.error
        parts.vectors[place] = outcome.vector


def text_to_rerank(parts: Parts) -> str:
    """The query's only text.

    Raises:
        ServiceError: it has none, several, or one that is held against its hits.
    """
    texts = [(parts.weights[place], text) for place, text in parts.texts.items()]
    if len(texts) != 1 or texts[0][0] < 0:
        raise invalid_argument(
            "rerank_top_k",
            f"the query has {len(texts)} texts; hits are reranked by exactly one, of positive weight",
            reason="RERANK_NEEDS_ONE_TEXT",
        )
    return texts[0][1]
