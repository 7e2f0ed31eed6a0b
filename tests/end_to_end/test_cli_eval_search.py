"""`mplug eval search` says of a real server what searching it says."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mplug_api.v1 import search_service_pb2 as pb
from mplug_services.cli import main
from mplug_services.client import Client, ScoreFusion
from services.rerank_servers import COUNT, Stubs, ingest, rerank_server
from services.serving import picture

Output = pytest.CaptureFixture[str]
TEXTS = ["piece3 piece8 piece21", "piece5 piece6", "piece40 piece12 piece9", "piece77", "piece100 piece4"]
COUNTS = (0, 4, 8, COUNT)
ORDERS = {"itc": None, "itm": ScoreFusion.MATCH, "both": ScoreFusion.SUM}


def found_ids(
    address: str, text: str, count: int, fusion: ScoreFusion | None = ScoreFusion.MATCH
) -> list[str]:
    with Client(address) as client:
        result = client.search(
            "pets",
            text=text,
            top_k=COUNT,
            rerank_top_k=count if fusion else 0,
            score_fusion=fusion or ScoreFusion.SERVER_DEFAULT,
        )
    return [hit.id for hit in result.hits]


def judged(address: str) -> list[dict[str, Any]]:
    """Every text with the three pictures that match it best, the better ones more."""
    queries = []
    for text in TEXTS:
        best = found_ids(address, text, COUNT)
        queries.append({"text": text, "relevant": {best[0]: 3, best[1]: 2, best[2]: 1}})
    return queries


def expected(address: str, queries: list[dict[str, Any]], count: int, order: str) -> dict[str, float]:
    """Of what the server itself answers when it is asked for this order."""
    rankings = [found_ids(address, query["text"], count, ORDERS[order])[:10] for query in queries]
    gains = [
        [query["relevant"].get(id, 0) / math.log2(place + 2) for place, id in enumerate(ranking)]
        for query, ranking in zip(queries, rankings, strict=True)
    ]
    best = 3 + 2 / math.log2(3) + 1 / 2
    recalls = {f"recall_at_{n}": 100 * sum(any(each[:n]) for each in gains) / len(gains) for n in (1, 5, 10)}
    return {**recalls, "ndcg_at_10": sum(map(sum, gains)) / best / len(gains)}


async def evaluate(address: str, file: Path, *arguments: str) -> int:
    """In a thread: the server lives in this loop."""
    command = ["eval", "search", "--queries", str(file), "--collection", "pets", "--address", address]
    return await asyncio.to_thread(main, [*command, *arguments])


def write(file: Path, queries: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(query) for query in queries), encoding="utf-8")
    return file


async def test_the_metrics_are_those_of_what_single_searches_find(
    tmp_path: Path, rerank_models: Path, capsys: Output
) -> None:
    async with rerank_server(tmp_path, rerank_models) as stubs:
        await ingest(stubs)
        address = stubs.server.address
        queries = await asyncio.to_thread(judged, address)
        (tmp_path / "p3.png").write_bytes(picture(3))
        file = write(tmp_path / "q.jsonl", [*queries, {"image": "p3.png", "relevant": ["p3"]}])
        assert await evaluate(address, file, "--rerank-k", ",".join(map(str, COUNTS)), "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert [row["rerank_top_k"] for row in found["rows"]] == list(COUNTS)
        for row in found["rows"]:
            for order in ORDERS:
                metrics = await asyncio.to_thread(expected, address, queries, row["rerank_top_k"], order)
                assert row[order] == pytest.approx(metrics), (row["rerank_top_k"], order)
            assert row["incomplete_queries"] == 0
            assert 0 < row["p50_ms"] <= row["p95_ms"]
    # The order of matches is perfect where all are reranked: the queries were made so.
    assert found["rows"][-1]["itm"]["ndcg_at_10"] == pytest.approx(1)
    assert found["rows"][0]["itc"]["ndcg_at_10"] < 1
    assert (found["model"]["name"], found["rerank_model"]["name"]) == ("tiny", "tiny-rerank")
    assert found["advice"]["best"]["rerank_top_k"] == COUNT
    assert found["advice"]["rerank_top_k"] in COUNTS[1:]
    assert found["image_row"]["itc"]["recall_at_1"] == 100


async def test_hits_that_the_server_cannot_rerank_mark_their_rows(
    tmp_path: Path, rerank_stubs: Stubs, capsys: Output
) -> None:
    await ingest(rerank_stubs)
    await ingest(rerank_stubs, 2, keep_images=pb.KEEP_IMAGES_NONE)  # p0 and p1 anew
    file = write(tmp_path / "q.jsonl", [{"text": text, "relevant": ["p5"]} for text in TEXTS])
    assert await evaluate(rerank_stubs.server.address, file, "--rerank-k", str(COUNT)) == 0
    output = capsys.readouterr().out
    assert f"{COUNT}*" in output
    assert f"fewer hits reranked than K: K = {COUNT}: {len(TEXTS)} of {len(TEXTS)}." in output


async def test_a_server_without_a_reranker_is_measured_without(
    tmp_path: Path, rerank_models: Path, capsys: Output
) -> None:
    async with rerank_server(tmp_path, rerank_models, rerank_model="") as stubs:
        await ingest(stubs)
        address = stubs.server.address
        file = write(tmp_path / "q.jsonl", [{"text": text, "relevant": ["p5"]} for text in TEXTS])
        assert await evaluate(address, file) == 1
        assert "rerank_model" in capsys.readouterr().err
        assert await evaluate(address, file, "--rerank-k", "0") == 0
        assert "no advice: nothing was reranked" in capsys.readouterr().out
