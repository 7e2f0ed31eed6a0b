"""`make bench`: measures every section, or those named, and writes them to docs/benchmarks.md."""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    attention,
    captioning,
    embedding,
    index,
    reranking,
    resolution,
    served_texts,
    text_ladder,
    texts,
)
from benchmarks.page import replace_section

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
SECTIONS: dict[str, Callable[[], str]] = {
    "served embedding": embedding.measure,
    "index": index.measure,
    "captioning": captioning.measure,
    "reranking": reranking.measure,
    "resolution": resolution.measure,
    "cross-attention": attention.measure,
    "texts": texts.measure,
    "text ladder": text_ladder.measure,
    "served texts": served_texts.measure,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of: {', '.join(SECTIONS)}")
    names = parser.parse_args().sections or list(SECTIONS)
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    for name in names:
        text = SECTIONS[name]()
        print(f"## {name}\n\n{text}\n", flush=True)
        replace_section(PAGE, name, text)


if __name__ == "__main__":
    main()
