"""A tiny model, pictures, and engines whose progress a test decides."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio
from PIL import Image
from torch import Tensor

from golden.mplug_cases import small_vocab, tiny_config
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug_api.v1 import common_pb2, search_service_pb2
from mplug_services.config import ServeConfig
from mplug_services.engine import ModelWorker
from mplug_services.scheduler import Scheduler
from mplug_services.server import Server, running_server
from mplug_services.server import make_scheduler as server_scheduler
from mplug_services.work import EmbedImage, EmbedText, WorkKind


def build_model() -> RetrievalModel:
    """The tiny random model; the words of its vocabulary are piece1 to piece129."""
    config = tiny_config()
    tokenizer = WordPieceTokenizer(small_vocab(130), max_length=config.max_text_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return RetrievalModel(config, tokenizer).eval()


class GatedModel(RetrievalModel):
    """The tiny model, whose forward passes wait at a gate while it is shut, and are recorded."""

    def __init__(self) -> None:
        config = tiny_config()
        super().__init__(config, WordPieceTokenizer(small_vocab(130), max_length=config.max_text_tokens))
        self.eval()
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.passes: list[tuple[str, int]] = []

    def embed_images(self, pixels: Tensor) -> Tensor:
        self._pass("image", len(pixels))
        return super().embed_images(pixels)

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        self._pass("text", len(ids))
        return super().embed_texts(ids, mask)

    def _pass(self, kind: str, count: int) -> None:
        self.passes.append((kind, count))
        self.arrived.release()
        assert self.gate.wait(30), "the gate stayed shut"

    def shut(self) -> None:
        """Let the next pass wait."""
        while self.arrived.acquire(blocking=False):
            pass
        self.gate.clear()

    async def wait_for_pass(self) -> None:
        """Until a pass stands at the gate."""
        assert await asyncio.to_thread(self.arrived.acquire, True, 30)


def make_scheduler(capacity: int = 64, images: int = 8, tokens: int = 64, **options: Any) -> Scheduler:
    """Budgets: `images` pictures of 32 px, or `tokens` padded tokens."""
    return Scheduler(capacity, {WorkKind.IMAGE: images * 32 * 32, WorkKind.TEXT: tokens}, **options)


def make_worker(model: RetrievalModel, scheduler: Scheduler | None = None) -> ModelWorker:
    return ModelWorker(lambda: {"retrieval": model}, make_scheduler() if scheduler is None else scheduler)


def image_item(value: int = 0, *, deadline: float | None = None, side: int = 32) -> EmbedImage:
    return EmbedImage(pixels=np.full((3, side, side), value, dtype=np.uint8), deadline=deadline)


def text_item(length: int = 5, *, deadline: float | None = None) -> EmbedText:
    return EmbedText(ids=np.full(length, 110, dtype=np.int64), deadline=deadline)


def picture(seed: int, *, size: tuple[int, int] = (48, 40), kind: str = "PNG") -> bytes:
    """A picture of a few large random patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).save(stream, kind)
    return stream.getvalue()


def image_input(seed: int) -> common_pb2.ImageInput:
    return common_pb2.ImageInput(data=picture(seed))


def ingest_requests(
    collection: str, seeds: Iterable[int], **options: Any
) -> list[search_service_pb2.IngestRequest]:
    """An ingest stream that makes its collection; ids are p0, p1, …"""
    first = search_service_pb2.IngestOptions(collection=collection, create_if_missing=True, **options)
    return [
        search_service_pb2.IngestRequest(options=first),
        *(
            search_service_pb2.IngestRequest(
                item=search_service_pb2.IngestItem(id=f"p{seed}", image=image_input(seed))
            )
            for seed in seeds
        ),
    ]


NO_MODELS = {"rerank_model": "", "caption_model": "", "vqa_model": "", "text_model": "", "more_models": ()}
"""Settings of a server without the models that a test has no use for; by default it has the shipped one for each."""


def serve_config(folder: Path, **changes: Any) -> ServeConfig:
    """Settings of a server for tests: a free port, its data under `folder`, models for retrieval alone."""
    values: dict[str, Any] = {"port": 0, "data_dir": folder / "data", "num_prepare_workers": 2, **NO_MODELS}
    return ServeConfig(**{**values, **changes})


@asynccontextmanager
async def tiny_server(
    folder: Path, model: RetrievalModel | None = None, **changes: Any
) -> AsyncIterator[tuple[Server, aio.Channel]]:
    """A real server of the tiny model (or of `model`) and a channel to it."""
    config = serve_config(folder, **changes)
    engine = make_worker(model or build_model(), server_scheduler(config))
    async with (
        running_server(config, engine=engine) as server,
        aio.insecure_channel(server.address, options=[("grpc.max_send_message_length", -1)]) as channel,
    ):
        yield server, channel


def status_of(error: aio.AioRpcError) -> Status:
    """The google.rpc.Status in the trailers of a failed RPC."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return Status.FromString(value)
    raise AssertionError(f"{error.code()} without details: {error.details()}")


def detail(status: Status, kind: type[Message]) -> Any:
    """The one detail of a kind. Any: its fields are those of `kind`."""
    found = []
    for each in status.details:
        message = kind()
        if each.Unpack(message):
            found.append(message)
    assert len(found) == 1, (kind.__name__, status)
    return found[0]


def reason_of(status: Status) -> str:
    info = detail(status, ErrorInfo)
    assert info.domain == "mplug-serve"
    return str(info.reason)


def fields_of(status: Status) -> list[str]:
    return [violation.field for violation in detail(status, BadRequest).field_violations]


def retry_seconds_of(status: Status) -> float:
    delay = detail(status, RetryInfo).retry_delay
    return float(delay.seconds + delay.nanos / 1e9)


async def poll(condition: Any, what: str, seconds: float = 20.0) -> None:
    """Wait until a condition that nothing announces holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for: {what}"
        await asyncio.sleep(0.005)


async def read_all(call: Any, into: list[Any] | None = None) -> list[Any]:
    """What a stream has still to say, for calls that were written to. Any: an aio call and its messages."""
    responses = [] if into is None else into
    while (response := await call.read()) is not aio.EOF:
        responses.append(response)
    return responses


def unpack(data: bytes, dtype: str = "<f4") -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(data, dtype=dtype).astype(np.float32)


def vectors_of(results: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors of EmbedResults, stacked; Any: protobuf's repeated field."""
    return np.stack([unpack(result.embedding.vector.data) for result in results])
