"""Servers with a tiny reranker, and what they are asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from grpc import aio

import mplug
from golden.mplug_cases import small_vocab, tiny_config
from mplug.config import FusionEncoderConfig, ImageEncoderConfig
from mplug.images import ImageLimits, decode_image
from mplug.preprocess import to_pixels
from mplug.reranking import RerankModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug_api.v1 import rerank_service_pb2 as pb
from mplug_api.v1 import search_service_pb2 as search_pb
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.rerank_service_pb2_grpc import RerankServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from mplug_services.server import Server, running_server
from services.serving import (
    image_input,
    ingest_requests,
    picture,
    serve_config,
)

COUNT = 12
TEXT = "piece3 piece8 piece21"


def make_rerank_model(*, side: int = 32, depth: int = 1, layers: int = 4) -> RerankModel:
    """A tiny reranker whose probabilities are far apart."""
    fusion = FusionEncoderConfig(hidden=48, layers=layers, stride_layer=2, heads=4, ffn=64, memory_width=48)
    options = {"img_size": side, "patch_size": 16, "embed_dim": 64, "depth": depth, "num_heads": 1}
    base = tiny_config()
    image = ImageEncoderConfig(
        backbone=base.image_encoder.backbone, backbone_options=options, width=64, adapter_width=48
    )
    config = tiny_config(
        name="tiny-rerank",
        image_encoder=image,
        fusion_encoder=fusion,
        preprocess=type(base.preprocess)(image_size=side),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = RerankModel(config, WordPieceTokenizer(small_vocab(130), max_length=25)).eval()
    with torch.no_grad():
        for parameter in model.fusion_encoder.parameters():
            parameter.mul_(2)
        ids = torch.from_numpy(model.tokenizer.encode(TEXT).ids)[None].expand(COUNT, -1)
        pixels = torch.stack([pixels_of(picture(seed), side) for seed in range(COUNT)])
        tokens = model.encode_image(pixels)
        model.itm_head.weight[0] = -model.itm_head.weight[1]
        for _ in range(2):  # margins of mean 0 and deviation 1
            margins = model.itm_logits(tokens, ids, ids != 0).diff(dim=1)[:, 0]
            model.itm_head.weight /= margins.std()
            model.itm_head.bias[1] -= margins.mean() / margins.std()
    return model


def pixels_of(data: bytes, side: int) -> torch.Tensor:
    limits = ImageLimits(max_bytes=2**20, max_pixels=2**20)
    return torch.from_numpy(to_pixels(decode_image(data, limits), side))


@torch.inference_mode()
def plain_scores(folder: Path, pictures: list[bytes], text: str = TEXT) -> list[float]:
    """The reference: `mplug.load`, one pair at a time."""
    model = mplug.load(folder, task="rerank")
    ids = torch.from_numpy(model.tokenizer.encode(text).ids)[None]
    scores = []
    for data in pictures:
        tokens = model.encode_image(pixels_of(data, model.preprocess.image_size)[None])
        scores.append(float(model.itm_scores(tokens, ids, torch.ones_like(ids, dtype=torch.bool))))
    return scores


@dataclass
class Stubs:
    """Any: stubs of aio channels are typed as those of sync ones."""

    server: Server
    rerank: Any
    search: Any
    caption: Any


@asynccontextmanager
async def rerank_server(folder: Path, models: Path, **changes: Any) -> AsyncIterator[Stubs]:
    settings = {"model": str(models / "retrieval"), "rerank_model": str(models / "rerank")}
    (folder / "root").mkdir(exist_ok=True)
    (folder / "root" / "one.png").write_bytes(picture(1))
    config = serve_config(folder, image_root=folder / "root", **{**settings, **changes})
    async with (
        running_server(config) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        yield Stubs(
            server, RerankServiceStub(channel), SearchServiceStub(channel), CaptionServiceStub(channel)
        )


async def ingest(stubs: Stubs, count: int = COUNT, **options: Any) -> None:
    requests = ingest_requests("pets", range(count), **options)
    responses = [each async for each in stubs.search.Ingest(iter(requests))]
    assert sum(each.HasField("ack") for each in responses) == count


def images(*seeds: int) -> list[pb.RerankCandidate]:
    return [pb.RerankCandidate(image=image_input(seed)) for seed in seeds]


def stored(*ids: str) -> list[pb.RerankCandidate]:
    return [pb.RerankCandidate(stored_id=id) for id in ids]


def probabilities(response: pb.RerankResponse) -> list[float]:
    assert [result.index for result in response.results] == list(range(len(response.results)))
    assert all(result.HasField("match_probability") for result in response.results), response.results
    return [result.match_probability for result in response.results]


def search_request(**options: Any) -> search_pb.SearchRequest:
    return search_pb.SearchRequest(
        collection="pets", parts=[search_pb.QueryPart(text=TEXT)], **{"top_k": COUNT, **options}
    )


def matches(response: search_pb.SearchResponse) -> dict[str, float]:
    return {hit.id: hit.match_probability for hit in response.hits if hit.HasField("match_probability")}
