"""Put pictures with payload into a collection and find them by text, with a filter.

Run: python examples/ingest_and_search.py LOCALHOST:PORT
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from mplug_services.client import Client, Filter, IngestItem, Match

PICTURES = Path(__file__).parent / "gallery" / "images"


def items() -> Iterator[IngestItem]:
    """Yields the gallery's photos and scenes, with payload."""
    for kind in ("photos", "scenes"):
        for path in sorted((PICTURES / kind).iterdir()):
            yield IngestItem(
                id=f"{kind}/{path.name}", image=path, payload={"kind": kind, "size": path.stat().st_size}
            )


def main(address: str = "localhost:50051") -> None:
    """Ingests them and searches the scenes."""
    with Client(address) as client:
        # An outcome without an error means: durable and searchable.
        for outcome in client.ingest("example", items()):
            if outcome.error is not None:
                print(f"refused {outcome.id}: {outcome.error}")
        print(f"{client.count('example')} pictures")
        scenes = Filter(must=(Match("kind", ("scenes",)),))
        result = client.search("example", text="a dog next to a car", filter=scenes, top_k=3)
        for hit in result.hits:
            print(f"{hit.score:.3f}  {hit.id}")


if __name__ == "__main__":
    main(*sys.argv[1:])
