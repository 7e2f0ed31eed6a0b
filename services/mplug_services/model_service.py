"""ModelService: what this server is, holds and allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from grpc import aio

import mplug
from mplug_api.v1 import model_service_pb2 as pb
from mplug_api.v1.model_service_pb2_grpc import ModelServiceServicer
from mplug_services import wire
from mplug_services.config import ServeConfig
from mplug_services.named_models import NamedModels
from mplug_services.served_model import AttentionKernel, ServedModel

MAX_ID_BYTES = 512
"""The index's own limit, published."""


class ModelService(ModelServiceServicer):
    """The servicer.

    Args:
        models: by task, the server's own; empty before they are loaded.
        named: the others, which requests name; they are listed while they are in memory.
        config: limits.
        services: full names of what this process serves.
        kernels: what computes the models' cross-attention; empty before they are loaded.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        named: NamedModels,
        config: ServeConfig,
        services: Sequence[str],
        *,
        kernels: Sequence[AttentionKernel],
    ) -> None:
        self._models = models
        self._named = named
        self._config = config
        self._services = services
        self._kernels = kernels
        self._start_time = wire.write_time(datetime.now(UTC))

    async def GetServerInfo(  # noqa: N802 - the method's name in the API
        self, request: pb.GetServerInfoRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.GetServerInfoResponse:
        """Describe the server."""
        return pb.GetServerInfoResponse(
            version=mplug.__version__,
            models=[_write_model(each) for each in [*self._models.values(), *self._named.in_memory]],
            limits=_write_limits(self._config),
            services=self._services,
            start_time=self._start_time,
            kernels=[
                pb.AttentionKernel(name=each.name, compiled=each.compiled, explanation=each.explanation)
                for each in self._kernels
            ],
        )


def _write_model(model: ServedModel) -> pb.ServedModel:
    return pb.ServedModel(
        name=model.name,
        task=model.task,
        embedding_fingerprint=model.fingerprint,
        embedding_dimension=model.embed_dim,
        device=model.device,
        dtype=model.dtype,
        parameter_count=model.num_parameters,
        licence=model.licence,
        max_text_tokens=model.tokenizer.max_length,
        continues_texts=model.writer is not None and model.writer.continues,
    )


def _write_limits(config: ServeConfig) -> pb.Limits:
    return pb.Limits(
        max_message_bytes=config.max_message_bytes,
        max_image_bytes=config.max_image_bytes,
        max_image_pixels=config.max_image_pixels,
        max_batch_size=config.max_batch_size,
        max_text_bytes=config.max_text_bytes,
        max_top_k=config.max_top_k,
        max_page_size=config.max_page_size,
        max_query_parts=config.max_query_parts,
        max_id_bytes=MAX_ID_BYTES,
        queue_size=config.queue_size,
        max_explained_items=config.max_explained_items,
        max_labels=config.max_labels,
    )
