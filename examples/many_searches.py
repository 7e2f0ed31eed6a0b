"""Send many searches at once from asyncio; run ingest_and_search.py before.

Run: python examples/many_searches.py LOCALHOST:PORT
"""

import asyncio
import sys

from mplug_services.client import AsyncClient, ClientError

QUERIES = ["a dog", "two cats", "绿色背景上的马", "a rocket", "城堡", "fruit", "a car", "cheese"]


async def best(client: AsyncClient, text: str) -> str:
    """Finds the best picture for a text."""
    try:
        result = await client.search("example", text=text, top_k=1, timeout=10)
    except ClientError as error:
        return f"{text}: {error.code} {error}"
    return f"{text}: {result.hits[0].id} ({result.hits[0].score:.3f})"


async def main(address: str = "localhost:50051") -> None:
    """Prints answers as they come."""
    async with AsyncClient(address) as client:
        for answer in asyncio.as_completed([best(client, text) for text in QUERIES]):
            print(await answer)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
