"""RerankService, and SearchService's second look, of a real server, by raw stubs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from grpc import aio

import mplug
from golden.mplug_cases import small_vocab, tiny, tiny_config
from mplug.captioning import CaptionModel
from mplug.checkpoints import native
from mplug.config import FusionEncoderConfig, ImageEncoderConfig
from mplug.images import ImageLimits, decode_image
from mplug.preprocess import to_pixels
from mplug.reranking import RerankModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug_api.v1 import common_pb2
from mplug_api.v1 import rerank_service_pb2 as pb
from mplug_api.v1 import search_service_pb2 as search_pb
from mplug_api.v1.caption_service_pb2 import CaptionRequest
from mplug_api.v1.caption_service_pb2_grpc import CaptionServiceStub
from mplug_api.v1.rerank_service_pb2_grpc import RerankServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from mplug_services.server import Server, running_server
from services.pets import fails
from services.serving import (
    build_model,
    fields_of,
    image_input,
    ingest_requests,
    picture,
    reason_of,
    serve_config,
)

Code = grpc.StatusCode
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


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    native.save(build_model(), folder / "retrieval")
    native.save(make_rerank_model(), folder / "rerank")
    return folder


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


@pytest.fixture
async def stubs(tmp_path: Path, models: Path) -> AsyncIterator[Stubs]:
    async with rerank_server(tmp_path, models, token_cache="none") as stubs:
        yield stubs


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


# RerankService.


async def test_probabilities_are_the_plain_models(stubs: Stubs, models: Path) -> None:
    response = await stubs.rerank.Rerank(pb.RerankRequest(text=TEXT, candidates=images(*range(COUNT))))
    expected = plain_scores(models / "rerank", [picture(seed) for seed in range(COUNT)])
    assert np.ptp(expected) > 0.3
    assert probabilities(response) == pytest.approx(expected, abs=1e-5)
    assert (response.reranked_count, response.truncated) == (COUNT, False)
    assert (response.model.name, len(response.model.fingerprint)) == ("tiny-rerank", 64)
    for stage in ("prepare", "queue", "forward", "total"):
        assert response.timings.HasField(stage), stage


@pytest.mark.parametrize(("storage", "tolerance"), [("fp16", 1e-3), ("int8", 2e-2)])
async def test_cached_tokens_score_nearly_the_same_and_never_differently(
    tmp_path: Path, models: Path, storage: str, tolerance: float
) -> None:
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(COUNT)))
    expected = plain_scores(models / "rerank", [picture(seed) for seed in range(COUNT)])
    async with rerank_server(tmp_path, models, token_cache=storage) as stubs:
        first = probabilities(await stubs.rerank.Rerank(request))
        second = probabilities(await stubs.rerank.Rerank(request))
    assert first == pytest.approx(expected, abs=tolerance)
    assert second == pytest.approx(first, abs=1e-6)
    # A start later, the tokens are on the disk.
    async with rerank_server(tmp_path, models, token_cache=storage) as stubs:
        third = await stubs.rerank.Rerank(request)
    assert probabilities(third) == pytest.approx(first, abs=1e-6)


async def test_tokens_are_made_once_and_survive_a_restart(tmp_path: Path, models: Path) -> None:
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(COUNT)))
    segments = tmp_path / "data" / "image-tokens"

    def written() -> int:
        return sum(file.stat().st_size for file in segments.glob("*.tokens"))

    async with rerank_server(tmp_path, models) as stubs:
        await stubs.rerank.Rerank(request)
        first = written()
        await stubs.rerank.Rerank(request)
    async with rerank_server(tmp_path, models) as stubs:
        await stubs.rerank.Rerank(request)
    assert 0 < first == written()


async def test_candidates_by_id_by_uri_and_by_bytes(stubs: Stubs, models: Path) -> None:
    await ingest(stubs, 3)
    by_uri = pb.RerankCandidate(image=common_pb2.ImageInput(uri="one.png"))
    request = pb.RerankRequest(
        text=TEXT, collection="pets", candidates=[*stored("p2"), by_uri, *images(0), *stored("p2")]
    )
    expected = plain_scores(models / "rerank", [picture(seed) for seed in (2, 1, 0, 2)])
    assert probabilities(await stubs.rerank.Rerank(request)) == pytest.approx(expected, abs=1e-5)


async def test_a_bad_candidate_harms_no_neighbour(stubs: Stubs, models: Path) -> None:
    await ingest(stubs, 1, keep_images=search_pb.KEEP_IMAGES_NONE)
    candidates = [
        *images(0),
        pb.RerankCandidate(image=common_pb2.ImageInput(data=b"no picture")),
        pb.RerankCandidate(image=common_pb2.ImageInput(uri="none.png")),
        pb.RerankCandidate(),
        pb.RerankCandidate(image=common_pb2.ImageInput()),
        *stored("p0", "p9"),
        *images(1),
    ]
    request = pb.RerankRequest(text=TEXT, collection="pets", candidates=candidates)
    response = await stubs.rerank.Rerank(request)
    assert response.reranked_count == len(candidates)
    ok = [response.results[place].match_probability for place in (0, 7)]
    assert ok == pytest.approx(plain_scores(models / "rerank", [picture(0), picture(1)]), abs=1e-5)
    errors = {result.index: result.error for result in response.results if result.HasField("error")}
    assert {index: (status.code, reason_of(status)) for index, status in errors.items()} == {
        1: (Code.INVALID_ARGUMENT.value[0], "IMAGE_UNKNOWN_FORMAT"),
        2: (Code.NOT_FOUND.value[0], "PICTURE_NOT_FOUND"),
        3: (Code.INVALID_ARGUMENT.value[0], "EMPTY_CANDIDATE"),
        4: (Code.INVALID_ARGUMENT.value[0], "EMPTY_IMAGE"),
        5: (Code.FAILED_PRECONDITION.value[0], "NO_PICTURE_KEPT"),
        6: (Code.NOT_FOUND.value[0], "POINT_NOT_FOUND"),
    }
    assert fields_of(errors[1]) == ["candidates[1].image"]
    assert fields_of(errors[4]) == ["candidates[4].image"]
    assert "keep_images" in errors[5].message


async def test_a_long_text_is_truncated_and_says_so(stubs: Stubs) -> None:
    request = pb.RerankRequest(text="piece4 " * 500, candidates=images(1))
    response = await stubs.rerank.Rerank(request)
    assert response.truncated
    assert len(probabilities(response)) == 1


WRONG: Mapping[str, tuple[pb.RerankRequest, Code, str, list[str]]] = {
    "no text": (pb.RerankRequest(candidates=images(1)), Code.INVALID_ARGUMENT, "EMPTY_TEXT", ["text"]),
    "no candidates": (pb.RerankRequest(text="a"), Code.INVALID_ARGUMENT, "EMPTY_BATCH", ["candidates"]),
    "too many": (
        pb.RerankRequest(text="a", candidates=stored(*"a" * 257)),
        Code.INVALID_ARGUMENT,
        "BATCH_TOO_LARGE",
        ["candidates"],
    ),
    "ids of nothing": (
        pb.RerankRequest(text="a", candidates=stored("p0")),
        Code.INVALID_ARGUMENT,
        "NO_COLLECTION",
        ["collection"],
    ),
    "an unknown collection": (
        pb.RerankRequest(text="a", candidates=stored("p0"), collection="none"),
        Code.NOT_FOUND,
        "COLLECTION_NOT_FOUND",
        [],
    ),
}


async def test_wrong_requests_are_refused_with_their_reason(stubs: Stubs) -> None:
    for name, (request, code, reason, fields) in WRONG.items():
        status = await fails(stubs.rerank.Rerank(request), code)
        assert reason_of(status) == reason, name
        if fields:
            assert fields_of(status) == fields, name


async def test_a_server_of_reranking_alone_takes_images(tmp_path: Path, models: Path) -> None:
    async with rerank_server(tmp_path, models, services=("rerank",)) as stubs:
        response = await stubs.rerank.Rerank(pb.RerankRequest(text=TEXT, candidates=images(0)))
        assert len(probabilities(response)) == 1
        request = pb.RerankRequest(text=TEXT, candidates=stored("p0"), collection="pets")
        status = await fails(stubs.rerank.Rerank(request), Code.FAILED_PRECONDITION)
        assert reason_of(status) == "NO_COLLECTIONS"


async def test_without_its_model_reranking_is_refused_and_names_the_setting(
    tmp_path: Path, models: Path
) -> None:
    async with rerank_server(tmp_path, models, rerank_model="") as stubs:
        call = stubs.rerank.Rerank(pb.RerankRequest(text=TEXT, candidates=images(0)))
        assert "rerank_model" in (await fails(call, Code.FAILED_PRECONDITION)).message
        await ingest(stubs, 2)
        call = stubs.search.Search(search_request(rerank_top_k=2))
        assert "rerank_model" in (await fails(call, Code.FAILED_PRECONDITION)).message
        assert len((await stubs.search.Search(search_request())).hits) == 2


# SearchService.


async def test_a_search_reranks_its_best_hits(stubs: Stubs, models: Path) -> None:
    await ingest(stubs)
    plain = await stubs.search.Search(search_request())
    assert not matches(plain)
    assert not plain.HasField("rerank_model")
    response = await stubs.search.Search(search_request(rerank_top_k=5))
    assert (response.reranked_count, response.rerank_model.name) == (5, "tiny-rerank")
    best = [hit.id for hit in plain.hits[:5]]
    expected = dict(
        zip(best, plain_scores(models / "rerank", [picture(int(id[1:])) for id in best]), strict=True)
    )
    assert matches(response) == pytest.approx(expected, abs=1e-5)
    # Both scores are there, and the others keep their places.
    assert [hit.id for hit in response.hits[:5]] == sorted(best, key=lambda id: -expected[id])
    assert [hit.id for hit in response.hits[5:]] == [hit.id for hit in plain.hits[5:]]
    scores = {hit.id: hit.score for hit in plain.hits}
    assert {hit.id: hit.score for hit in response.hits} == pytest.approx(scores, abs=1e-6)


async def test_reranking_looks_further_than_the_answer(stubs: Stubs) -> None:
    await ingest(stubs)
    everything = await stubs.search.Search(search_request(rerank_top_k=COUNT))
    response = await stubs.search.Search(search_request(rerank_top_k=COUNT, top_k=3))
    assert response.reranked_count == COUNT
    assert [hit.id for hit in response.hits] == [hit.id for hit in everything.hits[:3]]


async def test_the_fusion_is_the_callers_choice(stubs: Stubs) -> None:
    await ingest(stubs)
    ranked = [hit.id for hit in (await stubs.search.Search(search_request(rerank_top_k=COUNT))).hits]
    # Like the picture that matches worst and unlike the best, so that the cosines say something else.
    best, worst = (image_input(int(id[1:])) for id in (ranked[0], ranked[-1]))
    request = search_request(rerank_top_k=COUNT)
    request.parts.add(image=worst)
    request.parts.add(image=best, weight=-1)
    request.parts[0].weight = 0.01
    orders = {}
    hits = []
    for fusion in search_pb.ScoreFusion.values():
        request.score_fusion = fusion
        response = await stubs.search.Search(request)
        orders[fusion] = [hit.id for hit in response.hits]
        hits = list(response.hits)
    match = {hit.id: hit.match_probability for hit in hits}
    cosine = {hit.id: hit.score for hit in hits}
    by_match = sorted(match, key=lambda id: -match[id])
    by_cosine = sorted(cosine, key=lambda id: -cosine[id])
    assert orders[search_pb.SCORE_FUSION_UNSPECIFIED] == orders[search_pb.SCORE_FUSION_MATCH] == by_match
    assert orders[search_pb.SCORE_FUSION_SUM] == sorted(match, key=lambda id: -match[id] - cosine[id])
    ranks = {id: 1 / (61 + by_match.index(id)) + 1 / (61 + by_cosine.index(id)) for id in match}
    fused = orders[search_pb.SCORE_FUSION_RECIPROCAL_RANK]
    assert [ranks[id] for id in fused] == pytest.approx(sorted(ranks.values(), reverse=True))
    assert len({tuple(order) for order in orders.values()}) == 3


async def test_hits_without_a_picture_keep_their_places(stubs: Stubs) -> None:
    await ingest(stubs, 4)
    await ingest(stubs, 2, keep_images=search_pb.KEEP_IMAGES_NONE)  # p0 and p1 anew
    plain = await stubs.search.Search(search_request())
    response = await stubs.search.Search(search_request(rerank_top_k=4))
    assert response.reranked_count == 2
    assert set(matches(response)) == {"p2", "p3"}
    for before, after in zip(plain.hits, response.hits, strict=True):
        if before.id in ("p0", "p1"):
            assert before.id == after.id


async def test_hits_are_captioned_where_their_pictures_are_kept(tmp_path: Path, models: Path) -> None:
    native.save(tiny(CaptionModel), tmp_path / "caption")
    async with rerank_server(tmp_path, models, caption_model=str(tmp_path / "caption")) as stubs:
        await ingest(stubs, 4)
        await ingest(stubs, 1, keep_images=search_pb.KEEP_IMAGES_NONE)  # p0 anew
        captions = CaptionRequest(images=[image_input(seed) for seed in range(1, 4)])
        results = (await stubs.caption.Caption(captions)).results
        assert all(result.captions.texts[0].text for result in results)
        expected = {f"p{seed}": results[seed - 1].captions.texts[0].text for seed in range(1, 4)}
        for rerank_top_k in (0, 4):
            request = search_request(caption_results=True, rerank_top_k=rerank_top_k)
            hits = (await stubs.search.Search(request)).hits
            assert len(hits) == 4
            assert {hit.id: hit.caption for hit in hits if hit.HasField("caption")} == expected
        assert not any(hit.HasField("caption") for hit in (await stubs.search.Search(search_request())).hits)


async def test_captions_without_their_model_are_refused_and_name_the_setting(stubs: Stubs) -> None:
    await ingest(stubs, 2)
    call = stubs.search.Search(search_request(caption_results=True))
    assert "caption_model" in (await fails(call, Code.FAILED_PRECONDITION)).message


WRONG_SEARCHES = {
    "no text": (
        search_pb.SearchRequest(
            collection="pets", parts=[search_pb.QueryPart(stored_id="p0")], rerank_top_k=2
        ),
        "RERANK_NEEDS_ONE_TEXT",
        "rerank_top_k",
    ),
    "two texts": (
        search_pb.SearchRequest(
            collection="pets", parts=[search_pb.QueryPart(text=each) for each in "ab"], rerank_top_k=2
        ),
        "RERANK_NEEDS_ONE_TEXT",
        "rerank_top_k",
    ),
    "a text to stay away from": (
        search_pb.SearchRequest(
            collection="pets",
            parts=[search_pb.QueryPart(stored_id="p0"), search_pb.QueryPart(text="a", weight=-1)],
            rerank_top_k=2,
        ),
        "RERANK_NEEDS_ONE_TEXT",
        "rerank_top_k",
    ),
    "less than none": (search_request(rerank_top_k=-1), "OUT_OF_RANGE", "rerank_top_k"),
    "too many": (search_request(rerank_top_k=257), "OUT_OF_RANGE", "rerank_top_k"),
    "an unknown fusion": (
        search_request(rerank_top_k=2, score_fusion=99),
        "UNKNOWN_SCORE_FUSION",
        "score_fusion",
    ),
}


async def test_wrong_wishes_are_refused_with_their_reason(stubs: Stubs) -> None:
    await ingest(stubs, 2)
    for name, (request, reason, field) in WRONG_SEARCHES.items():
        status = await fails(stubs.search.Search(request), Code.INVALID_ARGUMENT)
        assert (reason_of(status), fields_of(status)) == (reason, [field]), name


# Time.


@pytest.fixture(scope="module")
def slow_models(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reranker has a vision tower of 1025 tokens: some ten times slower to rerank than to search."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "retrieval").symlink_to(models / "retrieval")
    native.save(make_rerank_model(side=512, depth=6), folder / "rerank")
    return folder


@pytest.mark.long
async def test_a_search_with_a_tenth_of_the_time_answers_with_what_it_reached(
    tmp_path: Path, slow_models: Path
) -> None:
    count = 64
    async with rerank_server(tmp_path, slow_models, token_cache="none") as stubs:
        await ingest(stubs, count)
        started = time.monotonic()
        whole = await stubs.search.Search(search_request(rerank_top_k=count, top_k=count))
        needed = time.monotonic() - started
        assert whole.reranked_count == count
        response = await stubs.search.Search(
            search_request(rerank_top_k=count, top_k=count), timeout=needed / 10
        )
        assert 0 < response.reranked_count < count
        assert len(response.hits) == count
        reached = matches(response)
        assert len(reached) == response.reranked_count
        assert reached == pytest.approx({id: matches(whole)[id] for id in reached}, abs=1e-5)
        # Nothing of it goes on: the next search does not stand behind what nobody waits for.
        assert stubs.server.queue_length == 0


@pytest.mark.long
async def test_a_rerank_stops_at_its_deadline_and_says_what_it_reached(
    tmp_path: Path, slow_models: Path
) -> None:
    count = 64
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(count)))
    async with rerank_server(tmp_path, slow_models, token_cache="none") as stubs:
        started = time.monotonic()
        await stubs.rerank.Rerank(request)
        needed = time.monotonic() - started
        response = await stubs.rerank.Rerank(request, timeout=needed / 4)
    kinds = [result.WhichOneof("result") for result in response.results]
    assert set(kinds) == {"match_probability", "not_reached"}
    assert kinds.count("match_probability") == response.reranked_count
    # In order: what was begun later is not far ahead.
    assert "not_reached" not in kinds[: response.reranked_count // 2]


async def test_a_cancelled_rerank_leaves_the_queue(tmp_path: Path, slow_models: Path) -> None:
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(64)))
    async with rerank_server(tmp_path, slow_models, token_cache="none") as stubs:
        call = stubs.rerank.Rerank(request)
        while stubs.server.queue_length == 0:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        end = time.monotonic() + 30
        while stubs.server.queue_length:
            assert time.monotonic() < end, "items of a cancelled call still wait"
            await asyncio.sleep(0.01)
        assert (
            len(probabilities(await stubs.rerank.Rerank(pb.RerankRequest(text=TEXT, candidates=images(0)))))
            == 1
        )
