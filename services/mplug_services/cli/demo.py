"""Search, rerank, caption and ask on the gallery that comes with the project; poems, couplets and a title.

It starts a server, ingests the gallery and searches it in four ways, those by text alone with reranking; then it has
pictures captioned in English and in Chinese, questions about them answered, and texts written. Everything it makes lies
in the output folder: the server's data, contact-sheet.png with the queries and what they found, and answers-sheet.png
with captions and answers. A second run takes seconds, since everything is ingested already.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from mplug_services.cli.common import EXIT_FAILURE, EXIT_OK, RETRY, CliError
from mplug_services.cli.demo_answers import Told, tell
from mplug_services.cli.demo_queries import PICTURES, QUERIES, DemoQuery
from mplug_services.cli.demo_texts import write_texts
from mplug_services.cli.ingest import describe_summary, ingest_items
from mplug_services.cli.search import result_table, timing_line
from mplug_services.cli.server_process import ServerProcess
from mplug_services.cli.sources import find_items
from mplug_services.client import Client, Filter, HasId, ScoreFusion, SearchResult

COLLECTION = "gallery"
SHEET_COLUMNS = 6
_CHECKOUT = Path(__file__).resolve().parents[3]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--output", type=Path, default=Path("demo-out"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        default=_CHECKOUT / "examples" / "gallery" / "gallery.jsonl",
        metavar="FILE",
        help="the gallery's .jsonl file (default: examples/gallery/gallery.jsonl of the checkout)",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="the model to search with (default: the server's own, as for the other tasks)",
    )
    parser.add_argument("-k", "--top-k", type=int, default=5, metavar="N", help="hits in the printed tables")


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    _check(options.gallery)
    console = Console(highlight=False)
    started = time.monotonic()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"{options.output} cannot be made: {error.strerror}") from error
    arguments = ["--model", options.model] if options.model else []
    console.print("starting a server …", style="dim")
    with ServerProcess(options.output / "data", arguments) as server:
        console.print(f"server ready at {server.address} after {time.monotonic() - started:.1f} s\n")
        with Client(server.address, retry=RETRY) as client:
            refused = _ingest(client, options.gallery, console)
            sheets = [_show_searches(client, options, console), _show_answers(client, options, console)]
            write_texts(client, console)
    console.print(_closing(sheets, time.monotonic() - started), soft_wrap=True)
    return EXIT_FAILURE if refused else EXIT_OK


def _check(gallery: Path) -> None:
    if find_spec("torch") is None:
        raise CliError("the demo runs a server: pip install 'mplug-serve[server]'")
    if not gallery.is_file():
        raise CliError(
            f"{gallery} does not exist. The gallery comes with the source checkout: run the demo there, "
            "or name a .jsonl file of your own with --gallery."
        )


def _ingest(client: Client, gallery: Path, console: Console) -> bool:
    started = time.monotonic()
    summary = ingest_items(client, COLLECTION, find_items([str(gallery)]), console=console)
    seconds = time.monotonic() - started
    console.print(f"{describe_summary(COLLECTION, summary)}, in {seconds:.1f} s\n", soft_wrap=True)
    return bool(summary.refused)


def _show_searches(client: Client, options: argparse.Namespace, console: Console) -> Path:
    """Prints what was found, and draws it."""
    folder = options.gallery.parent
    queries = [query for query in QUERIES if query.picture is None or (folder / query.picture).is_file()]
    results = [(query, _search(client, query, options, console)) for query in queries]
    return _write_sheet(client, options, results)


def _show_answers(client: Client, options: argparse.Namespace, console: Console) -> Path:
    """Prints captions and answers, and draws them."""
    folder = options.gallery.parent
    told = tell(client, folder, [each for each in PICTURES if (folder / each.picture).is_file()], console)
    return _write_answers(client, options, told)


def _search(client: Client, query: DemoQuery, options: argparse.Namespace, console: Console) -> SearchResult:
    image = options.gallery.parent / query.picture if query.picture else None
    itself = Filter(must_not=(HasId((query.picture,)),)) if query.picture else None
    result = client.search(
        COLLECTION,
        text=query.text,
        image=image,
        filter=itself,
        top_k=max(options.top_k, SHEET_COLUMNS),
        rerank_top_k=query.reranked,
        score_fusion=ScoreFusion.SUM,
    )
    shown = replace(result, hits=result.hits[: options.top_k])
    asked = " + ".join(part for part in (query.picture, f"“{query.text}”" if query.text else None) if part)
    reranked = f" ({result.reranked_count} hits reranked)" if query.reranked else ""
    console.print(result_table(shown, title=f"{query.title}: {asked}{reranked}"))
    console.print(timing_line(result) + "\n", style="dim")
    return result


def _write_sheet(
    client: Client, options: argparse.Namespace, results: list[tuple[DemoQuery, SearchResult]]
) -> Path:
    # Pillow comes with the server half, which the thin client does without.
    from mplug_services.cli.contact_sheet import SheetHit, SheetRow, draw_sheet

    folder: Path = options.gallery.parent
    rows = []
    for query, result in results:
        label = "label" if query.text is None or query.text.isascii() else "label_zh"
        hits = tuple(
            SheetHit(folder / hit.id, str(hit.payload.get(label, hit.id)), hit.score, hit.match_probability)
            for hit in result.hits[:SHEET_COLUMNS]
        )
        picture = folder / query.picture if query.picture else None
        rows.append(SheetRow(query.title, query.text, picture, f"{result.timings.total * 1000:.0f} ms", hits))
    model = results[0][1].model.name
    count = client.count(COLLECTION)
    sheet: Path = options.output / "contact-sheet.png"
    draw_sheet(
        rows,
        "mplug demo: searches",
        f"{count} pictures · {model} · best hit first; beside its label the cosine and, where hits were reranked, the "
        "probability of a match, added to it",
    ).save(sheet, optimize=True)
    return sheet


def _write_answers(client: Client, options: argparse.Namespace, told: Sequence[Told]) -> Path:
    from mplug_services.cli.answers_sheet import draw_answers

    info = client.server_info()
    models = dict.fromkeys(info.model(task).name for task in ("caption", "vqa"))
    sheet: Path = options.output / "answers-sheet.png"
    subtitle = f"{' and '.join(models)} · a caption in English, one in Chinese, and answers to questions"
    draw_answers(told, "mplug demo: captions and answers", subtitle).save(sheet, optimize=True)
    return sheet


def _closing(sheets: Sequence[Path], seconds: float) -> str:
    return (
        f"queries and results, captions and answers: {', '.join(map(str, sheets))}\n"
        f"done in {seconds:.1f} s; the server is stopped.\n\n"
        "Your own pictures:\n"
        "  mplug serve\n"
        "  mplug ingest FOLDER --collection mine      (in a second terminal)\n"
        '  mplug search "a dog on a beach" --collection mine --rerank 24\n'
        "  mplug caption FOLDER --output captions.jsonl\n"
        '  mplug ask PICTURE "what is the dog doing?"\n'
        "  mplug generate --template poem --slot tune=浣溪沙"
    )
