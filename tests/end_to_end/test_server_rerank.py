"""RerankService of a real server, by raw stubs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest

from mplug_api.v1 import common_pb2
from mplug_api.v1 import rerank_service_pb2 as pb
from mplug_api.v1 import search_service_pb2 as search_pb
from services.pets import fails
from services.rerank_servers import (
    COUNT,
    TEXT,
    Stubs,
    images,
    ingest,
    plain_scores,
    probabilities,
    rerank_server,
    search_request,
    stored,
)
from services.serving import (
    fields_of,
    picture,
    reason_of,
)

Code = grpc.StatusCode


async def test_probabilities_are_the_plain_models(rerank_stubs: Stubs, rerank_models: Path) -> None:
    response = await rerank_stubs.rerank.Rerank(pb.RerankRequest(text=TEXT, candidates=images(*range(COUNT))))
    expected = plain_scores(rerank_models / "rerank", [picture(seed) for seed in range(COUNT)])
    assert np.ptp(expected) > 0.3
    assert probabilities(response) == pytest.approx(expected, abs=1e-5)
    assert (response.reranked_count, response.truncated) == (COUNT, False)
    assert (response.model.name, len(response.model.fingerprint)) == ("tiny-rerank", 64)
    for stage in ("prepare", "queue", "forward", "total"):
        assert response.timings.HasField(stage), stage


@pytest.mark.parametrize(("storage", "tolerance"), [("fp16", 1e-3), ("int8", 2e-2)])
async def test_cached_tokens_score_nearly_the_same_and_never_differently(
    tmp_path: Path, rerank_models: Path, storage: str, tolerance: float
) -> None:
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(COUNT)))
    expected = plain_scores(rerank_models / "rerank", [picture(seed) for seed in range(COUNT)])
    async with rerank_server(tmp_path, rerank_models, token_cache=storage) as stubs:
        first = probabilities(await stubs.rerank.Rerank(request))
        second = probabilities(await stubs.rerank.Rerank(request))
    assert first == pytest.approx(expected, abs=tolerance)
    assert second == pytest.approx(first, abs=1e-6)
    # A start later, the tokens are on the disk.
    async with rerank_server(tmp_path, rerank_models, token_cache=storage) as stubs:
        third = await stubs.rerank.Rerank(request)
    assert probabilities(third) == pytest.approx(first, abs=1e-6)


async def test_tokens_are_made_once_and_survive_a_restart(tmp_path: Path, rerank_models: Path) -> None:
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(COUNT)))
    segments = tmp_path / "data" / "image-tokens"

    def written() -> int:
        return sum(file.stat().st_size for file in segments.glob("*.tokens"))

    async with rerank_server(tmp_path, rerank_models) as stubs:
        await stubs.rerank.Rerank(request)
        first = written()
        await stubs.rerank.Rerank(request)
    async with rerank_server(tmp_path, rerank_models) as stubs:
        await stubs.rerank.Rerank(request)
    assert 0 < first == written()


async def test_candidates_by_id_by_uri_and_by_bytes(rerank_stubs: Stubs, rerank_models: Path) -> None:
    await ingest(rerank_stubs, 3)
    by_uri = pb.RerankCandidate(image=common_pb2.ImageInput(uri="one.png"))
    request = pb.RerankRequest(
        text=TEXT, collection="pets", candidates=[*stored("p2"), by_uri, *images(0), *stored("p2")]
    )
    expected = plain_scores(rerank_models / "rerank", [picture(seed) for seed in (2, 1, 0, 2)])
    assert probabilities(await rerank_stubs.rerank.Rerank(request)) == pytest.approx(expected, abs=1e-5)


async def test_a_bad_candidate_harms_no_neighbour(rerank_stubs: Stubs, rerank_models: Path) -> None:
    await ingest(rerank_stubs, 1, keep_images=search_pb.KEEP_IMAGES_NONE)
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
    response = await rerank_stubs.rerank.Rerank(request)
    assert response.reranked_count == len(candidates)
    ok = [response.results[place].match_probability for place in (0, 7)]
    assert ok == pytest.approx(plain_scores(rerank_models / "rerank", [picture(0), picture(1)]), abs=1e-5)
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


async def test_a_long_text_is_truncated_and_says_so(rerank_stubs: Stubs) -> None:
    request = pb.RerankRequest(text="piece4 " * 500, candidates=images(1))
    response = await rerank_stubs.rerank.Rerank(request)
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


async def test_wrong_requests_are_refused_with_their_reason(rerank_stubs: Stubs) -> None:
    for name, (request, code, reason, fields) in WRONG.items():
        status = await fails(rerank_stubs.rerank.Rerank(request), code)
        assert reason_of(status) == reason, name
        if fields:
            assert fields_of(status) == fields, name


async def test_a_server_of_reranking_alone_takes_images(tmp_path: Path, rerank_models: Path) -> None:
    async with rerank_server(tmp_path, rerank_models, services=("rerank",)) as stubs:
        response = await stubs.rerank.Rerank(pb.RerankRequest(text=TEXT, candidates=images(0)))
        assert len(probabilities(response)) == 1
        request = pb.RerankRequest(text=TEXT, candidates=stored("p0"), collection="pets")
        status = await fails(stubs.rerank.Rerank(request), Code.FAILED_PRECONDITION)
        assert reason_of(status) == "NO_COLLECTIONS"


async def test_without_its_model_reranking_is_refused_and_names_the_setting(
    tmp_path: Path, rerank_models: Path
) -> None:
    async with rerank_server(tmp_path, rerank_models, rerank_model="") as stubs:
        call = stubs.rerank.Rerank(pb.RerankRequest(text=TEXT, candidates=images(0)))
        assert "rerank_model" in (await fails(call, Code.FAILED_PRECONDITION)).message
        await ingest(stubs, 2)
        call = stubs.search.Search(search_request(rerank_top_k=2))
        assert "rerank_model" in (await fails(call, Code.FAILED_PRECONDITION)).message
        assert len((await stubs.search.Search(search_request())).hits) == 2


@pytest.mark.long
async def test_a_rerank_stops_at_its_deadline_and_says_what_it_reached(
    tmp_path: Path, slow_rerank_models: Path
) -> None:
    count = 64
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(count)))
    async with rerank_server(tmp_path, slow_rerank_models, token_cache="none") as stubs:
        started = time.monotonic()
        await stubs.rerank.Rerank(request)
        needed = time.monotonic() - started
        response = await stubs.rerank.Rerank(request, timeout=needed / 4)
    kinds = [result.WhichOneof("result") for result in response.results]
    assert set(kinds) == {"match_probability", "not_reached"}
    assert kinds.count("match_probability") == response.reranked_count
    # In order: what was begun later is not far ahead.
    assert "not_reached" not in kinds[: response.reranked_count // 2]


async def test_a_cancelled_rerank_leaves_the_queue(tmp_path: Path, slow_rerank_models: Path) -> None:
    request = pb.RerankRequest(text=TEXT, candidates=images(*range(64)))
    async with rerank_server(tmp_path, slow_rerank_models, token_cache="none") as stubs:
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
