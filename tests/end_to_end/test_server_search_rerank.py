"""SearchService's second look at its hits, of a real server, by raw stubs."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from golden.mplug_cases import tiny
from mplug.captioning import CaptionModel
from mplug.checkpoints import native
from mplug_api.v1 import search_service_pb2 as search_pb
from mplug_api.v1.caption_service_pb2 import CaptionRequest
from services.pets import fails
from services.rerank_servers import (
    COUNT,
    Stubs,
    ingest,
    matches,
    plain_scores,
    rerank_server,
    search_request,
)
from services.serving import (
    fields_of,
    image_input,
    picture,
    reason_of,
)

Code = grpc.StatusCode


async def test_a_search_reranks_its_best_hits(rerank_stubs: Stubs, rerank_models: Path) -> None:
    await ingest(rerank_stubs)
    plain = await rerank_stubs.search.Search(search_request())
    assert not matches(plain)
    assert not plain.HasField("rerank_model")
    response = await rerank_stubs.search.Search(search_request(rerank_top_k=5))
    assert (response.reranked_count, response.rerank_model.name) == (5, "tiny-rerank")
    best = [hit.id for hit in plain.hits[:5]]
    expected = dict(
        zip(best, plain_scores(rerank_models / "rerank", [picture(int(id[1:])) for id in best]), strict=True)
    )
    assert matches(response) == pytest.approx(expected, abs=1e-5)
    # Both scores are there, and the others keep their places.
    assert [hit.id for hit in response.hits[:5]] == sorted(best, key=lambda id: -expected[id])
    assert [hit.id for hit in response.hits[5:]] == [hit.id for hit in plain.hits[5:]]
    scores = {hit.id: hit.score for hit in plain.hits}
    assert {hit.id: hit.score for hit in response.hits} == pytest.approx(scores, abs=1e-6)


async def test_reranking_looks_further_than_the_answer(rerank_stubs: Stubs) -> None:
    await ingest(rerank_stubs)
    everything = await rerank_stubs.search.Search(search_request(rerank_top_k=COUNT))
    response = await rerank_stubs.search.Search(search_request(rerank_top_k=COUNT, top_k=3))
    assert response.reranked_count == COUNT
    assert [hit.id for hit in response.hits] == [hit.id for hit in everything.hits[:3]]


async def test_the_fusion_is_the_callers_choice(rerank_stubs: Stubs) -> None:
    await ingest(rerank_stubs)
    ranked = [hit.id for hit in (await rerank_stubs.search.Search(search_request(rerank_top_k=COUNT))).hits]
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
        response = await rerank_stubs.search.Search(request)
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


async def test_hits_without_a_picture_keep_their_places(rerank_stubs: Stubs) -> None:
    await ingest(rerank_stubs, 4)
    await ingest(rerank_stubs, 2, keep_images=search_pb.KEEP_IMAGES_NONE)  # p0 and p1 anew
    plain = await rerank_stubs.search.Search(search_request())
    response = await rerank_stubs.search.Search(search_request(rerank_top_k=4))
    assert response.reranked_count == 2
    assert set(matches(response)) == {"p2", "p3"}
    for before, after in zip(plain.hits, response.hits, strict=True):
        if before.id in ("p0", "p1"):
            assert before.id == after.id


async def test_hits_are_captioned_where_their_pictures_are_kept(tmp_path: Path, rerank_models: Path) -> None:
    native.save(tiny(CaptionModel), tmp_path / "caption")
    async with rerank_server(tmp_path, rerank_models, caption_model=str(tmp_path / "caption")) as stubs:
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


async def test_captions_without_their_model_are_refused_and_name_the_setting(rerank_stubs: Stubs) -> None:
    await ingest(rerank_stubs, 2)
    call = rerank_stubs.search.Search(search_request(caption_results=True))
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


async def test_wrong_wishes_are_refused_with_their_reason(rerank_stubs: Stubs) -> None:
    await ingest(rerank_stubs, 2)
    for name, (request, reason, field) in WRONG_SEARCHES.items():
        status = await fails(rerank_stubs.search.Search(request), Code.INVALID_ARGUMENT)
        assert (reason_of(status), fields_of(status)) == (reason, [field]), name


@pytest.mark.long
async def test_a_search_with_a_tenth_of_the_time_answers_with_what_it_reached(
    tmp_path: Path, slow_rerank_models: Path
) -> None:
    count = 64
    async with rerank_server(tmp_path, slow_rerank_models, token_cache="none") as stubs:
        await ingest(stubs, count)
        started = time.monotonic()
        whole = await stubs.search.Search(search_request(rerank_top_k=count, top_k=count))
        needed = time.monotonic() - started
        assert whole.reranked_count == count
        request = search_request(rerank_top_k=count, top_k=count)
        response = await stubs.search.Search(request, timeout=needed / 10)
        assert response.reranked_count < count
        assert len(response.hits) == count
        # On a busy machine a tenth may be too little for any; somewhat more is not.
        share = 10.0
        while response.reranked_count == 0:
            share /= 1.5
            response = await stubs.search.Search(request, timeout=needed / share)
            assert len(response.hits) == count
        reached = matches(response)
        assert len(reached) == response.reranked_count
        assert reached == pytest.approx({id: matches(whole)[id] for id in reached}, abs=1e-5)
        # Nothing of it goes on: the next search does not stand behind what nobody waits for.
        assert stubs.server.queue_length == 0
