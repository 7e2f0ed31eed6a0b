"""Search by a picture and a text together, and away from something else; run ingest_and_search.py before.

Run: python examples/like_this_not_that.py LOCALHOST:PORT
"""

import sys
from pathlib import Path

from mplug_services.client import Client, Part

PHOTO = Path(__file__).parent / "gallery" / "images" / "photos" / "chelsea.jpg"


def main(address: str = "localhost:50051") -> None:
    """Searches by a photo, towards a text, away from a stored picture."""
    parts = [
        Part(image=PHOTO),
        Part(text="on a purple background", weight=0.5),
        Part(stored_id="photos/astronaut.jpg", weight=-0.3),
    ]
    with Client(address) as client:
        for hit in client.search("example", parts=parts, top_k=5).hits:
            print(f"{hit.score:.3f}  {hit.id}")


if __name__ == "__main__":
    main(*sys.argv[1:])
