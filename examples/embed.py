"""Turn pictures and texts into vectors and compare them: the dot product is the cosine.

Run: python examples/embed.py LOCALHOST:PORT
"""

import sys
from pathlib import Path

from mplug_services.client import Client

GALLERY = Path(__file__).parent / "gallery" / "images" / "drawings"
PICTURES = ["cat-twemoji.webp", "bicycle-twemoji.webp", "pizza-twemoji.webp"]
TEXTS = ["a cat", "a bicycle", "一块披萨"]


def main(address: str = "localhost:50051") -> None:
    """Embeds three pictures and three texts and prints each pair's cosine."""
    with Client(address) as client:
        pictures = client.embed_images([GALLERY / name for name in PICTURES])
        texts = client.embed_texts(TEXTS)
    for text in texts:
        for picture in pictures:
            # An item that is refused has an error where the others have a vector.
            if text.vector is None or picture.vector is None:
                print(f"refused: {text.error or picture.error}")
            else:
                cosine = float(text.vector @ picture.vector)
                print(f"{cosine:6.3f}  {TEXTS[text.index]} / {PICTURES[picture.index]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
