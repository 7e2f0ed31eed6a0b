"""Embed pictures and add them to a collection.

A source is a folder (searched through), a pattern, a picture, or a .jsonl file of objects with a field
"image" (a path relative to the .jsonl file); their other fields become the picture's payload. A picture's
id is its path relative to the folder or .jsonl file. What is there already is left alone, so that running
the same command again finishes what is missing. A broken file is reported and the others go in.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Console

from mplug_services.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    Refusal,
    add_connection_arguments,
    add_served_model_argument,
    connect,
    messages,
    progress_bar,
    report_refusals,
)
from mplug_services.cli.sources import Found, find_items
from mplug_services.client import Client, IngestItem, KeepImages, NotFoundError

_LOOKUP_BATCH = 1000


@dataclass(slots=True)
class Summary:
    """What became of the pictures that were found."""

    found: int = 0
    added: int = 0
    present: int = 0
    refused: list[Refusal] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder, pattern, picture or .jsonl file"
    )
    parser.add_argument("--collection", required=True, metavar="NAME", help="made where it is not there yet")
    parser.add_argument(
        "--keep-images",
        choices=[str(keep) for keep in KeepImages if keep is not KeepImages.SERVER_DEFAULT],
        default=str(KeepImages.SERVER_DEFAULT),
        help="what the server keeps beside the vectors (default: its own setting)",
    )
    parser.add_argument("--replace", action="store_true", help="embed again what is there already")
    parser.add_argument(
        "--time-field",
        action="append",
        default=[],
        metavar="FIELD",
        help="read this field of a .jsonl file as a time (ISO 8601; without a zone: UTC)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_served_model_argument(parser)
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    items = find_items(options.sources, options.time_field)
    with connect(options) as client:
        summary = ingest_items(
            client,
            options.collection,
            items,
            keep_images=KeepImages(options.keep_images),
            replace=options.replace,
            model=options.served_model,
            console=messages(),
        )
    if options.json:
        print(json.dumps(asdict(summary), ensure_ascii=False))
    else:
        print(describe_summary(options.collection, summary))
    return EXIT_REFUSED if summary.refused else EXIT_OK


def ingest_items(
    client: Client,
    collection: str,
    items: Sequence[Found],
    *,
    keep_images: KeepImages = KeepImages.SERVER_DEFAULT,
    replace: bool = False,
    model: str = "",
    console: Console,
) -> Summary:
    """Adds pictures to a collection, with a progress bar, and reports the refused ones."""
    refused = [item for item in items if isinstance(item, Refusal)]
    good = [item for item in items if isinstance(item, IngestItem)]
    summary = Summary(found=len(items), refused=refused)
    with progress_bar(console) as progress:
        bar = progress.add_task(collection, total=len(good))
        missing = good if replace else list(_missing(client, collection, good))
        summary.present = len(good) - len(missing)
        progress.advance(bar, summary.present)
        outcomes = client.ingest(
            collection, missing, keep_images=keep_images, skip_existing=not replace, model=model
        )
        for outcome in outcomes:
            progress.advance(bar)
            if outcome.error is not None:
                refused.append(Refusal(outcome.id, str(outcome.error)))
            elif outcome.skipped:
                summary.present += 1
            else:
                summary.added += 1
    report_refusals(console, refused, "refused", remedy="--json names them all")
    return summary


def describe_summary(collection: str, summary: Summary) -> str:
    """The summary in a sentence."""
    return (
        f"{collection}: {summary.found} pictures found, {summary.added} added, "
        f"{summary.present} were there already, {len(summary.refused)} refused"
    )


def _missing(client: Client, collection: str, items: Sequence[IngestItem]) -> Iterator[IngestItem]:
    """The items that the collection does not hold: asking for ids is far cheaper than sending pictures."""
    for start in range(0, len(items), _LOOKUP_BATCH):
        batch = items[start : start + _LOOKUP_BATCH]
        try:
            _, missing = client.get(collection, [item.id for item in batch])
        except NotFoundError:
            yield from items[start:]
            return
        wanted = set(missing)
        yield from (item for item in batch if item.id in wanted)
