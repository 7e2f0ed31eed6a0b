"""Which services there are, what each needs, and how they are put into a gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from grpc import aio

from mplug_api.v1 import (
    caption_service_pb2,
    caption_service_pb2_grpc,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    index_service_pb2,
    index_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    rerank_service_pb2,
    rerank_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    text_service_pb2,
    text_service_pb2_grpc,
    vqa_service_pb2,
    vqa_service_pb2_grpc,
)
from mplug_services.blocking import BlockingPool
from mplug_services.caption_service import CaptionService
from mplug_services.config import MODEL_SETTINGS, TEXT_TASKS, ServeConfig
from mplug_services.embedder import Embedder, EmbedderSlot
from mplug_services.embedding_service import EmbeddingService
from mplug_services.engine_seam import Engine, WorkQueue
from mplug_services.errors import failed_precondition, unavailable
from mplug_services.generator import Generator
from mplug_services.image_reader import ImageReader
from mplug_services.index_service import IndexService
from mplug_services.job_parts import Jobs
from mplug_services.job_service import JobService
from mplug_services.judge import Judge
from mplug_services.kept_pictures import KeptPictures
from mplug_services.model_choice import ModelChoice
from mplug_services.model_service import ModelService
from mplug_services.named_models import NamedModels, Users
from mplug_services.prepare import Preparer
from mplug_services.rerank_service import RerankService
from mplug_services.reranker import Reranker
from mplug_services.search_service import SearchService
from mplug_services.served_model import AttentionKernel, ServedModel
from mplug_services.slot import Slot
from mplug_services.storage import Storage
from mplug_services.text_service import TextService
from mplug_services.token_cache import TokenCache
from mplug_services.vqa_service import VqaService
from mplug_services.writer import Writer

FULL_NAMES = {
    "embedding": embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,
    "index": index_service_pb2.DESCRIPTOR.services_by_name["IndexService"].full_name,
    "search": search_service_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
    "caption": caption_service_pb2.DESCRIPTOR.services_by_name["CaptionService"].full_name,
    "vqa": vqa_service_pb2.DESCRIPTOR.services_by_name["VqaService"].full_name,
    "rerank": rerank_service_pb2.DESCRIPTOR.services_by_name["RerankService"].full_name,
    "text": text_service_pb2.DESCRIPTOR.services_by_name["TextService"].full_name,
    "job": job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    "model": model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
}
TASKS_OF = {
    "embedding": ("retrieval",),
    "search": ("retrieval",),
    "caption": ("caption",),
    "vqa": ("vqa",),
    "rerank": ("rerank",),
    "text": TEXT_TASKS,
}
"""Services that are nothing without the model of one of some tasks."""
LOADING_RETRY_SECONDS = 1.0

UserT = TypeVar("UserT")


class Slots:
    """Where the users of the server's own models will be once these are loaded and warm.

    Args:
        config: says which models are given.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.embedder = EmbedderSlot(_not_ready("retrieval", config))
        self.captioner: Slot[Generator] = Slot(_not_ready("caption", config))
        self.answerer: Slot[Generator] = Slot(_not_ready("vqa", config))
        self.reranker: Slot[Reranker] = Slot(_not_ready("rerank", config))
        self.writer: Slot[Writer] = Slot(_not_ready("text-generation", config))
        self.classifier: Slot[Judge] = Slot(_not_ready("text-classification", config))
        self.filler: Slot[Judge] = Slot(_not_ready("fill-mask", config))
        self.models: dict[str, ServedModel] = {}
        """By task, what is in service."""
        self.kernels: list[AttentionKernel] = []
        """What computes their cross-attention."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What services are made of."""

    config: ServeConfig
    slots: Slots
    pool: BlockingPool
    preparer: Preparer
    reader: ImageReader
    pictures: KeptPictures
    storage: Storage | None
    named: NamedModels
    jobs: Jobs | None
    """Where there is a JobService."""
    tokens: TokenCache | None
    """Where the reranker's image tokens are kept; None where nothing is reranked."""
    draining: asyncio.Event

    @property
    def models(self) -> ModelChoice:
        """What services ask for their models."""
        own = self.slots
        return ModelChoice(
            own.models,
            self.named,
            embedders=own.embedder,
            captioners=own.captioner,
            answerers=own.answerer,
            rerankers=own.reranker,
            writers=own.writer,
            classifiers=own.classifier,
            fillers=own.filler,
        )


def selected(config: ServeConfig) -> list[str]:
    """Names of the services that a server is to have; ModelService in any case."""
    return [name for name in FULL_NAMES if name in config.services or name == "model"]


def served(config: ServeConfig) -> list[str]:
    """Names of the selected services whose model is given; the others answer that it is not."""
    return [
        name
        for name in selected(config)
        if name not in TASKS_OF or any(task in config.sources for task in TASKS_OF[name])
    ]


def add_services(server: aio.Server, parts: Parts) -> None:
    """Put the selected services into a server."""
    config, models = parts.config, parts.models
    names = selected(config)
    if "embedding" in names:
        embedding = EmbeddingService(models, parts.reader, config)
        embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(embedding, server)
    if "index" in names and parts.storage is not None:
        index = IndexService(parts.storage.database, parts.pool, config)
        index_service_pb2_grpc.add_IndexServiceServicer_to_server(index, server)
    if "search" in names and parts.storage is not None:
        search = SearchService(
            models,
            parts.storage.collections,
            parts.pool,
            parts.reader,
            config,
            parts.draining,
            pictures=parts.pictures,
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(search, server)
    if "caption" in names:
        caption = CaptionService(models, parts.reader, config)
        caption_service_pb2_grpc.add_CaptionServiceServicer_to_server(caption, server)
    if "vqa" in names:
        vqa = VqaService(models, parts.reader, config)
        vqa_service_pb2_grpc.add_VqaServiceServicer_to_server(vqa, server)
    if "rerank" in names:
        collections = None if parts.storage is None else parts.storage.collections
        rerank = RerankService(models, collections, parts.pool, config)
        rerank_service_pb2_grpc.add_RerankServiceServicer_to_server(rerank, server)
    if "text" in names:
        text = TextService(models, config)
        text_service_pb2_grpc.add_TextServiceServicer_to_server(text, server)
    if parts.jobs is not None:
        job = JobService(parts.jobs, parts.reader, parts.preparer, parts.pool, config)
        job_service_pb2_grpc.add_JobServiceServicer_to_server(job, server)
    model = ModelService(
        parts.slots.models,
        parts.named,
        config,
        [FULL_NAMES[name] for name in served(config)],
        kernels=parts.slots.kernels,
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)


def make_users(parts: Parts, models: Mapping[str, ServedModel], queue: WorkQueue) -> Users:
    """What the services ask, of models by task."""
    reranker = None
    if "rerank" in models and parts.tokens is not None:
        pictures, tokens = parts.pictures, parts.tokens
        reranker = Reranker(models["rerank"], queue, parts.preparer, tokens, pictures, parts.pool)
    return Users(
        models,
        embedder=Embedder(models["retrieval"], queue, parts.preparer) if "retrieval" in models else None,
        captioner=Generator(models["caption"], queue, parts.preparer) if "caption" in models else None,
        answerer=Generator(models["vqa"], queue, parts.preparer) if "vqa" in models else None,
        reranker=reranker,
        writer=Writer(models["text-generation"], queue, parts.preparer)
        if "text-generation" in models
        else None,
        classifier=Judge(models["text-classification"], queue) if "text-classification" in models else None,
        filler=Judge(models["fill-mask"], queue) if "fill-mask" in models else None,
    )


def fill_slots(parts: Parts, models: Mapping[str, ServedModel], engine: Engine) -> None:
    """Put the server's own models in service."""
    slots, users = parts.slots, make_users(parts, models, engine)
    slots.models.update(models)
    slots.kernels[:] = engine.kernels
    _fill(slots.embedder, users.embedder)
    _fill(slots.captioner, users.captioner)
    _fill(slots.answerer, users.answerer)
    _fill(slots.reranker, users.reranker)
    _fill(slots.writer, users.writer)
    _fill(slots.classifier, users.classifier)
    _fill(slots.filler, users.filler)


def _fill(slot: Slot[UserT], user: UserT | None) -> None:
    if user is not None:
        slot.fill(user)


def _not_ready(task: str, config: ServeConfig) -> Callable[[], Exception]:
    """What callers are told while a task's model is not there: it is being loaded, or it was never given."""
    setting = MODEL_SETTINGS[task]
    if task not in config.sources:
        return lambda: failed_precondition(
            "MODEL_NOT_CONFIGURED", f"this server has no model for it; start it with {setting} set"
        )
    return lambda: unavailable(
        "MODEL_LOADING", "the model is being loaded; try again", retry_seconds=LOADING_RETRY_SECONDS
    )
