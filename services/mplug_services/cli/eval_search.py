"""Measure searches, with more and fewer hits reranked, and advise how many to rerank.

FILE holds one JSON object a line, of a text and the ids of the pictures that are right for it:
  {"text": "a dog on a beach", "relevant": ["dogs/7.jpg", "dogs/9.jpg"]}
or, where some are more right than others, of grades by id, which nDCG counts:
  {"text": "a dog on a beach", "relevant": {"dogs/7.jpg": 3, "dogs/9.jpg": 1}}
"image" in place of "text" searches by a picture (a path relative to FILE). Reranking matches pictures with a
text, so these queries are measured without it, in a row of their own. Other fields are left aside. Whether the
collection has the ids is not checked: what is not found counts as a miss.

For each K every text is searched with rerank_top_k = K and top_k = max(10, K), and three orders are measured:
  ITC   as retrieved, by the cosine
  ITM   the first K by match probability, the rest as retrieved       (score_fusion = match)
  both  the first K by both, the rest as retrieved                    (score_fusion: see --fusion)
R@n is the share of queries, in percent, with something relevant among the first n hits; nDCG@10 gains a hit's
grade / log2(place + 1), over that of the best ranking there could be, and is a mean over queries.

p50 and p95 are of the call, as this client sees it. "reranking" is the median of what the server itself needed
beyond the same search without reranking. Each query is first searched once, uncounted, with the largest K,
so that the pictures' tokens are in the server's cache (token_cache) for the searches that count. All K
follow for this query before the next, and each query begins with another K.

Advised is the smallest K whose best order is, in nDCG@10, within one standard error (of the differences, query by
query) of the best over all K; with --budget, over those whose p95 keeps it. K = 0 is always measured. A row in
which the --timeout cut reranking short is marked: its numbers are those of what was reached. A search that is not
answered in time counts as one that found nothing.
"""

import argparse
import itertools
import json
from pathlib import Path

from mplug_services.cli.common import (
    EXIT_OK,
    CliError,
    UsageError,
    add_connection_arguments,
    connect,
    messages,
    progress_bar,
)
from mplug_services.cli.quality_report import SearchReport, print_report, report_facts
from mplug_services.client import Client, ScoreFusion
from mplug_services.evaluation import advice
from mplug_services.evaluation.queries import JudgedQuery, QueryFileError, read_queries
from mplug_services.evaluation.search_quality import quality_rows
from mplug_services.evaluation.search_rounds import Searches, search_rounds

DEFAULT_COUNTS = (0, 8, 16, 32, 64, 128)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation's arguments."""
    parser.add_argument("--queries", required=True, type=Path, metavar="FILE", help="JSON lines, see above")
    parser.add_argument("--collection", required=True, metavar="NAME", help="where to search")
    parser.add_argument(
        "--rerank-k",
        type=_counts,
        default=DEFAULT_COUNTS,
        metavar="K,K,…",
        help=f"so many hits are reranked (default: {','.join(map(str, DEFAULT_COUNTS))})",
    )
    parser.add_argument(
        "--fusion",
        choices=[str(ScoreFusion.SUM), str(ScoreFusion.RECIPROCAL_RANK)],
        default=str(ScoreFusion.SUM),
        help='what "both" is (default: %(default)s)',
    )
    parser.add_argument(
        "--budget",
        type=_milliseconds,
        metavar="MS",
        help="advise no K whose p95 is above so many milliseconds",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation."""
    try:
        queries = read_queries(options.queries)
    except QueryFileError as error:
        raise UsageError(f"--queries {error}") from error
    with connect(options) as client:
        report = evaluate_search(client, queries, options)
    if options.json:
        print(json.dumps(report_facts(report), ensure_ascii=False))
    else:
        print_report(report)
    return EXIT_OK


def evaluate_search(client: Client, queries: list[JudgedQuery], options: argparse.Namespace) -> SearchReport:
    """Searches for all queries, and judges what was found.

    Raises:
        UsageError: More hits are to be reranked than the server reranks.
        CliError: No search was answered in time.
        ClientError: A search failed otherwise.
    """
    counts: tuple[int, ...] = options.rerank_k
    limits = client.server_info().limits
    if counts[-1] > (limit := min(limits.max_batch_size, limits.max_top_k)):
        raise UsageError(f"--rerank-k {counts[-1]}: this server reranks at most {limit} hits of a search")
    texts = [query for query in queries if query.text is not None]
    images = [query for query in queries if query.image is not None]
    searches = Searches(client, options.collection, ScoreFusion(options.fusion))
    with progress_bar(messages()) as progress:
        total = len(texts) * (len(counts) + 1) + len(images) * 2
        bar = progress.add_task("searching", total=total)
        of_texts = search_rounds(searches, texts, counts, on_search=lambda: progress.advance(bar))
        of_images = search_rounds(searches, images, (0,), on_search=lambda: progress.advance(bar))
    answers = [
        each.result for each in itertools.chain(*of_texts.values(), *of_images.values()) if each.result
    ]
    if not answers:
        raise CliError(f"no search was answered within the --timeout of {options.timeout:g} s; give more")
    text_rows = quality_rows(texts, of_texts, searches.fusion) if texts else []
    return SearchReport(
        collection=options.collection,
        fusion=searches.fusion,
        model=answers[0].model,
        rerank_model=next((each.rerank_model for each in answers if each.rerank_model), None),
        text_count=len(texts),
        truncated_count=sum(bool(each.result and each.result.truncated_parts) for each in of_texts[0]),
        text_rows=text_rows,
        image_count=len(images),
        image_row=quality_rows(images, of_images, searches.fusion)[0] if images else None,
        budget=options.budget,
        advice=advice.advise(text_rows, options.budget) if len(text_rows) > 1 else None,
    )


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = {int(each) for each in text.split(",")}
    except ValueError:
        counts = {-1}
    if min(counts) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of hits such as 0,8,16")
    return tuple(sorted({0, *counts}))


def _milliseconds(text: str) -> float:
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of milliseconds above 0")
    return milliseconds / 1000
