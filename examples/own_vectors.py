"""Use the index alone, with vectors of your own: no model is asked.

Run: python examples/own_vectors.py LOCALHOST:PORT
"""

import sys

import numpy as np

from mplug_services.client import Client, Filter, NumberRange, Part, Point


def main(address: str = "localhost:50051") -> None:
    """Stores a thousand vectors and finds the neighbours of one."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((1000, 64), dtype=np.float32)
    points = [Point(f"point-{n}", vector, {"number": float(n)}) for n, vector in enumerate(vectors)]
    with Client(address) as client:
        if "own-vectors" not in [collection.name for collection in client.list_collections()]:
            client.create_collection("own-vectors", dimension=64)
        # Larger batches than the server takes in one message are split by the client.
        refused = [outcome for outcome in client.upsert("own-vectors", points) if outcome.error]
        print(f"{len(refused)} refused, {client.count('own-vectors')} points")
        high = Filter(must=(NumberRange("number", gte=500),))
        for found in client.query("own-vectors", [Part(vector=vectors[7])], filter=high, top_k=3):
            print(f"{found.score:.3f}  {found.point.id}")


if __name__ == "__main__":
    main(*sys.argv[1:])
