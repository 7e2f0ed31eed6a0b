"""What goes into the client's calls and comes out of them: plain values, no protobuf.

Shapes: E is the width of the model's embeddings, D the dimension of a collection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mplug_index.types import Payload
from mplug_services.client.errors import ClientError

FloatVector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A picture, by its encoded bytes or by a path relative to the server's image root."""

    data: bytes | None = None
    uri: str | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.uri is None):
            raise ValueError("An ImageInput takes either data or uri")


ImageSource = bytes | Path | ImageInput
"""A picture: its bytes, a file that the client reads, or what the server reads itself."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Which model made an answer."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that each stage of a request took; 0 for stages that did not run."""

    prepare: float = 0.0
    queue: float = 0.0
    forward: float = 0.0
    index: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may hold; the client splits larger batches by them."""

    max_message_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_batch_size: int
    max_text_bytes: int
    max_top_k: int
    max_page_size: int
    max_query_parts: int
    max_id_bytes: int
    queue_size: int
    max_explained_items: int
    max_labels: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that the server holds."""

    name: str
    task: str
    embedding_fingerprint: str
    embedding_dimension: int
    device: str
    dtype: str
    parameter_count: int
    licence: str
    max_text_tokens: int
    continues_texts: bool = False
    """Of text-generation: what it writes follows the text that it is given, instead of being made from it."""


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """A form of cross-attention that is compiled for GPUs, and whether it runs on the server's device."""

    name: str
    compiled: bool
    """It may run, where it was measured to be faster; otherwise plain torch does."""
    explanation: str
    """What runs and why, for people."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and holds."""

    version: str
    models: tuple[ServedModel, ...]
    limits: Limits
    services: tuple[str, ...]
    start_time: datetime
    kernels: tuple[AttentionKernel, ...] = ()
    """What computes cross-attention; empty before the models are loaded, and of servers that do not say."""

    def model(self, task: str = "retrieval") -> ServedModel:
        """The model for a task.

        Raises:
            LookupError: The server has none for it.
        """
        for model in self.models:
            if model.task == task:
                return model
        raise LookupError(
            f"The server has no model for {task}; it has {[model.task for model in self.models]}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class EmbedOutcome:
    """The result for one picture or text of a batch: a vector or an error."""

    index: int
    vector: FloatVector | None = None
    """float32 (E,), L2-normalised."""
    truncated: bool = False
    """The text was longer than the model reads; its end was left out."""
    error: ClientError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a query: exactly one of text, image, vector and stored_id, with its weight."""

    text: str | None = None
    image: ImageSource | None = None
    vector: FloatVector | None = None
    """float32 (E,) in a search, (D,) in a query of vectors."""
    stored_id: str | None = None
    """A point of the collection; it is left out of the results."""
    weight: float = 1.0
    """Negative: unlike this."""

    def __post_init__(self) -> None:
        given = [name for name in ("text", "image", "vector", "stored_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"A Part takes exactly one of text, image, vector and stored_id, not {given}")


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A picture that was found."""

    id: str
    score: float
    """Cosine of the query and the picture."""
    payload: Payload
    match_probability: float | None = None
    """Probability that the picture matches the text; None where the hit was not reranked."""
    caption: str | None = None
    """Where captions were asked for and the server keeps the picture."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The pictures found, best first."""

    hits: tuple[SearchHit, ...]
    model: ModelVersion
    timings: Timings
    truncated_parts: tuple[int, ...] = ()
    """Positions of query parts whose text was longer than the model reads."""
    reranked_count: int = 0
    """How many hits were reranked; fewer than asked for where the deadline came first."""
    rerank_model: ModelVersion | None = None
    """Which model reranked them."""


class KeepImages(StrEnum):
    """What the server keeps of an ingested picture beside its vector."""

    SERVER_DEFAULT = "server_default"
    NONE = "none"
    ORIGINAL = "original"
    THUMBNAIL = "thumbnail"


@dataclass(frozen=True, slots=True)
class IngestItem:
    """A picture to add to a collection."""

    id: str
    image: ImageSource
    payload: Payload = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IngestOutcome:
    """What became of one picture: stored for good, skipped because it was there, or refused."""

    id: str
    sequence_number: int = 0
    skipped: bool = False
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class UpsertOutcome:
    """What became of one point of an upsert."""

    id: str
    sequence_number: int = 0
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Certificates for an encrypted connection, PEM; without any, the system's roots are trusted."""

    root_certificates: bytes | Path | None = None
    private_key: bytes | Path | None = None
    certificate_chain: bytes | Path | None = None
    server_name: str | None = None
    """The name to check the server's certificate against, where it is not the address's."""


Metadata = Mapping[str, str]
"""Headers sent with every call."""
