"""What the commands share that explain: their flags, and the pictures they write."""

import argparse
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from mplug.heat_maps import Explain
from mplug.pipelines import Outcome
from mplug_services.cli.common import EXIT_OK, EXIT_REFUSED, CliError, Refusal, messages, report_refusals
from mplug_services.cli.ledger import write_whole
from mplug_services.client import Client, ExplainOptions, MatchOutcome, SearchResult

_NAME_BYTES = 160
"""Of a name, of the 255 that file systems take; the rest is for what stands before and behind it."""


def add_explain_arguments(parser: argparse.ArgumentParser, metavar: str, help: str) -> None:
    """Adds where heat maps go, and of which layer they are."""
    group = parser.add_argument_group("explanation: which parts of the picture speak for a word or a match")
    group.add_argument("--explain", type=Path, metavar=metavar, help=help)
    group.add_argument(
        "--explain-layer",
        type=int,
        metavar="N",
        help="the layer whose cross-attention is read (default: the middle one)",
    )


def explain_settings(options: argparse.Namespace) -> Explain | None:
    """What is to be explained; None: nothing.

    Raises:
        CliError: Sheets cannot be drawn here.
    """
    if options.explain is None:
        return None
    if find_spec("PIL") is None:
        raise CliError("--explain draws with Pillow: pip install 'mplug-serve[server]'")
    return Explain(options.explain_layer)


def write_sheet(path: Path, picture: bytes, outcome: Outcome, title: str) -> None:
    """Writes the sheet of one explained text; it is on the disk, whole, when this returns.

    Raises:
        CliError: It cannot be written.
    """
    from mplug_services.cli.heat_sheet import draw_heat_sheet, png

    write_picture(path, png(draw_heat_sheet(picture, outcome.heat_maps, title)))


def write_picture(path: Path, data: bytes) -> None:
    """Writes a file whole, with the folders above it.

    Raises:
        CliError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from error


def file_name(id: str, suffix: str) -> str:
    """A name in one folder for what belongs to an id; another one for each id."""
    plain = re.sub(r"[^\w.-]+", "_", id).lstrip(".").encode()[:_NAME_BYTES].decode(errors="ignore")
    # Where the id could not be kept as it is, the hash tells it from others.
    known = hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()
    mark = "" if plain == id else f"-{known[:12]}"
    return f"{plain}{mark}{suffix}"


def explain_hits(client: Client, result: SearchResult, options: argparse.Namespace) -> int:
    """Explains the first hits of a search for a text, and writes an overlay of each; the result is an exit code.

    Raises:
        ClientError: The server does not explain.
        CliError: A file cannot be written.
    """
    most = client.server_info().limits.max_explained_items
    hits = result.hits[: min(options.rerank, most)]
    if not hits:
        return EXIT_OK
    ids = [hit.id for hit in hits]
    explain = ExplainOptions(options.explain_layer)
    reranked = client.rerank(
        options.text, ids, collection=options.collection, explain=explain, model=options.rerank_model
    )
    refusals = []
    for rank, (id, outcome) in enumerate(zip(ids, reranked.outcomes, strict=True), start=1):
        if outcome.heat_maps:
            name = file_name(id, ".jpg")
            write_picture(options.explain / f"{rank:02}-{name}", outcome.heat_maps[0].overlay)
        else:
            refusals.append(Refusal(id, _reason(outcome)))
    report_refusals(messages(), refusals, "not explained", remedy="the others for the same reasons")
    messages().print(
        f"{len(hits) - len(refusals)} of {len(result.hits)} hits are explained in {options.explain}"
    )
    return EXIT_REFUSED if refusals else EXIT_OK


def _reason(outcome: MatchOutcome) -> str:
    return str(outcome.error or "the deadline came first; a longer --timeout reaches more")
