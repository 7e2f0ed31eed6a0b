"""Find pictures by text, by picture, by what is like them, or by all of these together."""

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mplug_services.cli.common import (
    EXIT_OK,
    UsageError,
    add_connection_arguments,
    connect,
    messages,
    results,
)
from mplug_services.cli.conditions import HELP as FILTER_HELP
from mplug_services.cli.conditions import parse_filter
from mplug_services.cli.explanations import add_explain_arguments, explain_hits
from mplug_services.client import Part, Payload, PayloadValue, ScoreFusion, SearchResult

UNLIKE_WEIGHT = -0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what the pictures should show")
    parser.add_argument("--collection", required=True, metavar="NAME", help="where to search")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a picture that they should be like",
    )
    parser.add_argument(
        "--like", action="append", default=[], metavar="ID", help="a picture of the collection, likewise"
    )
    parser.add_argument(
        "--unlike",
        action="append",
        default=[],
        metavar="ID",
        help=f"a picture of the collection that they should not be like (weight {UNLIKE_WEIGHT})",
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        type=float,
        metavar="W",
        help="weights of TEXT, --image, --like and --unlike, in this order (default: 1 each)",
    )
    parser.add_argument(
        "--filter", action="append", default=[], metavar="CONDITION", help=FILTER_HELP.replace("%", "%%")
    )
    parser.add_argument("-k", "--top-k", type=int, default=10, metavar="N", help="how many (default: 10)")
    reranking = parser.add_argument_group("a second look, by the model that sees picture and text together")
    reranking.add_argument(
        "--rerank",
        type=int,
        default=0,
        metavar="K",
        help="so many of the best hits are ordered anew (default: 0)",
    )
    reranking.add_argument(
        "--fusion",
        choices=[str(each) for each in ScoreFusion if each is not ScoreFusion.SERVER_DEFAULT],
        default=str(ScoreFusion.SERVER_DEFAULT),
        help="what orders them (default: the server's setting)",
    )
    parser.add_argument("--captions", action="store_true", help="give each hit a caption")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_explain_arguments(
        parser, "FOLDER", "with --rerank: draw what speaks for a match over the first hits (16 at most)"
    )
    trained = parser.add_argument_group("models that jobs have trained, in the place of the server's own")
    trained.add_argument("--served-model", default="", metavar="NAME", help="to embed the query")
    trained.add_argument("--rerank-model", default="", metavar="NAME", help="to rerank")
    trained.add_argument("--caption-model", default="", metavar="NAME", help="to caption")
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    parts = query_parts(options)
    filter = parse_filter(options.filter)
    if options.top_k < 1:
        raise UsageError(f"-k takes a number of pictures from 1 on, not {options.top_k}")
    if options.rerank < 0:
        raise UsageError(f"--rerank takes a number of hits, not {options.rerank}")
    if options.rerank and options.text is None:
        raise UsageError("--rerank matches pictures with a text: give a TEXT")
    if options.explain is not None and not options.rerank:
        raise UsageError("--explain shows what reranking looked at: give --rerank K as well")
    with connect(options) as client:
        result = client.search(
            options.collection,
            parts=parts,
            filter=filter,
            top_k=options.top_k,
            rerank_top_k=options.rerank,
            score_fusion=ScoreFusion(options.fusion),
            caption_results=options.captions,
            model=options.served_model,
            rerank_model=options.rerank_model,
            caption_model=options.caption_model,
        )
        _show(result, options)
        return EXIT_OK if options.explain is None else explain_hits(client, result, options)


def _show(result: SearchResult, options: argparse.Namespace) -> None:
    if result.truncated_parts:
        messages().print("The text is longer than the model reads; its end was left out.", style="yellow")
    if result.reranked_count < min(options.rerank, len(result.hits)):
        messages().print(
            f"{result.reranked_count} of {min(options.rerank, len(result.hits))} hits were reranked; a longer "
            "--timeout reaches more.",
            style="yellow",
        )
    if options.json:
        print(json.dumps(asdict(result), ensure_ascii=False, default=_json_value))
    else:
        results().print(result_table(result))
        results().print(timing_line(result), style="dim")


def query_parts(options: argparse.Namespace) -> list[Part]:
    """The parts of the query, with their weights.

    Raises:
        UsageError: Nothing to search for, a file that is not there, or too many weights.
    """
    for image in options.image:
        if not image.is_file():
            raise UsageError(f"--image {image} is not a file")
    fields: list[tuple[dict[str, str | Path], float]] = []
    if options.text is not None:
        fields.append(({"text": options.text}, 1.0))
    fields += [({"image": image}, 1.0) for image in options.image]
    fields += [({"stored_id": id}, 1.0) for id in options.like]
    fields += [({"stored_id": id}, UNLIKE_WEIGHT) for id in options.unlike]
    if not fields:
        raise UsageError("nothing to search for: give a TEXT, --image or --like")
    if len(options.weight) > len(fields):
        raise UsageError(f"{len(options.weight)} weights for {len(fields)} parts of the query")
    weights = [*options.weight, *(weight for _, weight in fields[len(options.weight) :])]
    return [_part(kind, weight) for (kind, _), weight in zip(fields, weights, strict=True)]


def _part(kind: dict[str, str | Path], weight: float) -> Part:
    text, image, stored_id = kind.get("text"), kind.get("image"), kind.get("stored_id")
    return Part(
        text=str(text) if text is not None else None,
        image=Path(image) if image is not None else None,
        stored_id=str(stored_id) if stored_id is not None else None,
        weight=weight,
    )


def result_table(result: SearchResult, title: str | None = None) -> Table:
    """The hits in order, with their scores and payload."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
    table.add_column("#", justify="right", style="dim", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    reranked = any(hit.match_probability is not None for hit in result.hits)
    if reranked:
        table.add_column("match", justify="right", no_wrap=True)
    captioned = any(hit.caption is not None for hit in result.hits)
    if captioned:
        table.add_column("caption", overflow="fold", min_width=16, max_width=60)
    table.add_column("shows", overflow="fold", min_width=16, max_width=60)
    table.add_column("id", overflow="fold", min_width=20)
    for rank, hit in enumerate(result.hits, start=1):
        match = "" if hit.match_probability is None else f"{hit.match_probability:.3f}"
        optional = [*([match] if reranked else []), *([escape(hit.caption or "")] if captioned else [])]
        table.add_row(str(rank), f"{hit.score:.3f}", *optional, payload_text(hit.payload), hit.id)
    return table


def payload_text(payload: Payload) -> str:
    """What a payload says of its picture: the labels, or every field where it has none."""
    labels = [str(payload[key]) for key in ("label", "label_zh") if key in payload]
    return " · ".join(labels or [f"{key}={_text(value)}" for key, value in payload.items()])


def timing_line(result: SearchResult) -> str:
    """Where the time went, and which model answered."""
    timings = result.timings
    stages = ("prepare", "queue", "forward", "index")
    parts = [f"{stage} {getattr(timings, stage) * 1000:.1f}" for stage in stages]
    models = [result.model.name, *([result.rerank_model.name] if result.rerank_model else [])]
    return f"{len(result.hits)} hits in {timings.total * 1000:.1f} ms ({', '.join(parts)}) · {' + '.join(models)}"


def _text(value: PayloadValue) -> str:
    if isinstance(value, tuple):
        return "|".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _json_value(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
