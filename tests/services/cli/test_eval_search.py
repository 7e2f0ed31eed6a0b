"""`mplug eval search` against a real gRPC server that says what a test wants."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mplug_api.v1 import common_pb2, model_service_pb2, search_service_pb2
from mplug_services.cli import main
from services.client.scripted_server import ScriptedServer, abort, scripted_server

Output = pytest.CaptureFixture[str]
COUNT = 20
"""Pictures of the collection, p0 to p19; p0 is nearest to every text, and p5 matches best."""


class Searcher:
    """Reranks all that it is asked to, or `reach` hits of it."""

    def __init__(self, reach: int = COUNT) -> None:
        self.requests: list[search_service_pb2.SearchRequest] = []
        self.reach = reach

    def search(self, request: search_service_pb2.SearchRequest, context: object) -> object:
        self.requests.append(request)
        reranked = min(request.rerank_top_k, self.reach, COUNT)
        hits = [
            search_service_pb2.SearchHit(
                id=f"p{place}",
                score=1 - place / 32,
                match_probability=1 - abs(place - 5) / 16 if place < reranked else None,
            )
            for place in range(min(request.top_k, COUNT))
        ]
        return search_service_pb2.SearchResponse(
            hits=hits, model=common_pb2.ModelVersion(name="tiny"), reranked_count=reranked
        )

    def asked(self) -> list[tuple[str, int, int]]:
        return [(each.parts[0].text, each.rerank_top_k, each.top_k) for each in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as script:
        monkeypatch.setenv("MPLUG_ADDRESS", script.address)
        monkeypatch.setenv("COLUMNS", "100")
        limits = model_service_pb2.Limits(max_batch_size=64, max_top_k=50)
        info = model_service_pb2.GetServerInfoResponse(limits=limits)
        script.on("GetServerInfo", lambda request, context: info)
        yield script


def write(folder: Path, *queries: object) -> list[str]:
    file = folder / "queries.jsonl"
    file.write_text("\n".join(json.dumps(query) for query in queries), encoding="utf-8")
    return ["eval", "search", "--queries", str(file), "--collection", "pets"]


def texts(*words: str, best: str = "p5") -> list[dict[str, object]]:
    return [{"text": word, "relevant": [best]} for word in words]


def facts(output: Output) -> dict[str, Any]:
    """Any: JSON."""
    found: dict[str, Any] = json.loads(output.readouterr().out)
    return found


def test_each_query_is_searched_with_every_count_after_a_round_that_is_not_counted(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    searcher = Searcher()
    server.on("Search", searcher.search)
    command = write(tmp_path, *texts("one", "two"))
    assert main([*command, "--rerank-k", "16,4,16", "--fusion", "reciprocal_rank", "--json"]) == 0
    calls = [
        *(("one", count) for count in (16, 0, 4, 16)),
        *(("two", count) for count in (16, 4, 16, 0)),
    ]
    assert searcher.asked() == [(text, count, max(10, count)) for text, count in calls]
    fusions = {request.score_fusion for request in searcher.requests}
    assert fusions == {search_service_pb2.SCORE_FUSION_RECIPROCAL_RANK}
    assert [row["rerank_top_k"] for row in facts(capsys)["rows"]] == [0, 4, 16]


def test_what_reranking_gains_is_measured_and_advised(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    server.on("Search", Searcher().search)
    command = [*write(tmp_path, *texts("one", "two", "three")), "--rerank-k", "0,4,8,16"]
    assert main([*command, "--json"]) == 0
    found = facts(capsys)
    itm = {row["rerank_top_k"]: row["itm"] for row in found["rows"]}
    # p5 is the sixth, until it is among those that are reranked.
    assert {count: each["recall_at_1"] for count, each in itm.items()} == {0: 0, 4: 0, 8: 100, 16: 100}
    assert {count: each["recall_at_5"] for count, each in itm.items()} == {0: 0, 4: 0, 8: 100, 16: 100}
    assert {each["recall_at_10"] for each in itm.values()} == {100}
    for row in found["rows"]:
        assert row["itc"]["ndcg_at_10"] == pytest.approx(1 / math.log2(7))
    advice = found["advice"]
    assert (advice["rerank_top_k"], advice["order"], advice["score_fusion"]) == (8, "itm", "match")
    assert advice["ndcg_gain"] == pytest.approx(1 - 1 / math.log2(7))
    assert main(command) == 0
    output = capsys.readouterr()
    assert re.search(r"K.*order.*R@1.*R@5.*R@10.*nDCG@10.*p50.*p95", output.out)
    assert re.search(r"│ +8 │ ITC +│ +0\.0 │ +0\.0 │ 100\.0 │ +0\.356 │ +\d+\.\d │", output.out)
    assert re.search(r"│ +│ ITM +│ 100\.0 │ 100\.0 │ 100\.0 │ +1\.000 │", output.out)
    assert (
        "advised: rerank_top_k = 8, score_fusion = match (mplug search --rerank 8 --fusion match)"
        in output.out
    )
    assert "nDCG@10 1.000, +0.644 ± 0.000 against no reranking" in output.out
    assert "*" not in output.out
    assert "15/15" in output.err


def test_reranking_that_spoils_the_order_is_not_advised(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    server.on("Search", Searcher().search)
    command = [*write(tmp_path, *texts("one", "two", best="p0")), "--rerank-k", "8"]
    assert main(command) == 0
    assert "advised: rerank_top_k = 0. Reranking does not help" in capsys.readouterr().out


def test_a_budget_that_nothing_keeps_is_said_to_be(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    server.on("Search", Searcher().search)
    command = [*write(tmp_path, *texts("one")), "--rerank-k", "8", "--budget", "0.001"]
    assert main([*command, "--json"]) == 0
    found = facts(capsys)
    assert (found["budget_ms"], found["advice"]["within_budget"]) == (0.001, False)
    assert found["advice"]["rerank_top_k"] == 0
    assert main(command) == 0
    assert "even so p95 is not within 0.001 ms" in capsys.readouterr().out


def test_rows_in_which_not_all_was_reranked_are_marked(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    server.on("Search", Searcher(reach=6).search)
    command = [*write(tmp_path, *texts("one", "two")), "--rerank-k", "4,8"]
    assert main([*command, "--json"]) == 0
    assert [row["incomplete_queries"] for row in facts(capsys)["rows"]] == [0, 0, 2]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert re.search(r"│ +4 │ ITC +│ +0\.0 │", output)
    assert re.search(r"│ +8\* │ ITC +│ +0\.0\* │", output)
    assert re.search(r"│ +│ ITM +│ 100\.0\* │ 100\.0\* │ 100\.0\* │ +1\.000\* │", output)
    assert "* searches without an answer or with fewer hits reranked than K: K = 8: 2 of 2." in output
    assert "by what was reranked: see *" in output


def test_a_search_without_an_answer_found_nothing(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    searcher = Searcher()

    def search(request: search_service_pb2.SearchRequest, context: grpc.ServicerContext) -> object:
        if request.parts[0].text == "two" and request.rerank_top_k == 16:
            abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, "late")
        return searcher.search(request, context)

    server.on("Search", search)
    command = [*write(tmp_path, *texts("one", "two")), "--rerank-k", "8,16"]
    assert main([*command, "--json"]) == 0
    found = facts(capsys)
    assert [row["incomplete_queries"] for row in found["rows"]] == [0, 0, 1]
    assert [row["itm"]["recall_at_10"] for row in found["rows"]] == [100, 100, 50]
    assert found["advice"]["rerank_top_k"] == 8


def test_pictures_are_searched_by_without_reranking(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    searcher = Searcher()
    server.on("Search", searcher.search)
    (tmp_path / "dog.png").write_bytes(b"a picture")
    picture = {"image": "dog.png", "relevant": {"p0": 2}}
    assert main([*write(tmp_path, *texts("one"), picture), "--rerank-k", "8", "--json"]) == 0
    found = facts(capsys)
    assert (found["text_queries"], found["image_queries"]) == (1, 1)
    assert found["image_row"]["itc"]["recall_at_1"] == 100
    assert [each.rerank_top_k for each in searcher.requests if each.parts[0].HasField("image")] == [0, 0]
    assert main([*write(tmp_path, picture), "--rerank-k", "8"]) == 0
    output = capsys.readouterr().out
    assert "queries by picture: 1, in pets, by tiny" in output
    assert "no advice: reranking matches pictures with a text" in output


def test_a_timeout_in_which_nothing_is_answered_is_named(
    server: ScriptedServer, tmp_path: Path, capsys: Output
) -> None:
    server.on("Search", lambda request, context: abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, "late"))
    assert main([*write(tmp_path, *texts("one")), "--rerank-k", "8", "--timeout", "7"]) == 1
    assert "mplug eval: no search was answered within the --timeout of 7 s" in capsys.readouterr().err


def test_the_help_gives_the_format_and_the_rule(capsys: Output) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["eval", "search", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert '{"text": "a dog on a beach", "relevant": ["dogs/7.jpg", "dogs/9.jpg"]}' in text
    assert "within one standard error" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "line 2: not JSON"),
        (["--rerank-k", "51"], "--rerank-k 51: this server reranks at most 50 hits"),
        (["--rerank-k", "many"], "'many' is no list"),
        (["--rerank-k", "8,-1"], "'8,-1' is no list"),
        (["--budget", "0"], "'0' is no number of milliseconds"),
        (["--budget", "inf"], "'inf' is no number of milliseconds"),
        (["--fusion", "match"], "invalid choice: 'match'"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_searched(
    server: ScriptedServer, tmp_path: Path, arguments: list[str], message: str, capsys: Output
) -> None:
    command = [*write(tmp_path, *texts("one")), *arguments]
    if not arguments:
        with (tmp_path / "queries.jsonl").open("a") as file:
            file.write("\na dog\n")
    try:
        code = main(command)
    except SystemExit as stop:
        code = int(str(stop.code))
    assert code == 2
    assert message in capsys.readouterr().err
    assert set(server.calls) <= {"GetServerInfo"}
