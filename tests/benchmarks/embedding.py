"""Pictures embedded by the server against a bare loop over the same bytes, batches and model."""

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import mplug
from benchmarks.page import table
from benchmarks.rounds import interleave
from mplug.contrastive import ContrastiveModel
from mplug.images import decode_image
from mplug.preprocess import to_pixels
from mplug_services.cli.server_process import ServerProcess
from mplug_services.client import AsyncClient, IngestItem

GALLERY = Path(__file__).parents[2] / "examples" / "gallery" / "images"
BATCH = 16
NUM_PICTURES = 12 * BATCH
CALLS_IN_FLIGHT = 3


def measure() -> str:
    """The section's text."""
    batches = _batches()
    model = mplug.freeze(mplug.load("mplug-mini"))
    with _served(batches) as (embed, ingest), ThreadPoolExecutor(2) as pool:
        timings = interleave(
            {
                "bare": lambda: [_forward(model, list(map(_pixels, batch))) for batch in batches],
                "bare, decoding in two threads": lambda: [
                    _forward(model, list(pool.map(_pixels, batch))) for batch in batches
                ],
                "EmbeddingService": embed,
                "SearchService.Ingest": ingest,
            }
        )
    rows = [
        (name, *(str(timings.speedup(name, over)) for over in list(timings.seconds)[:2]))
        for name in list(timings.seconds)[2:]
    ]
    return (
        f"mplug-mini, float32, {NUM_PICTURES} pictures of the gallery as PNG and JPEG bytes, batches of {BATCH}, "
        f"{CALLS_IN_FLIGHT} calls in flight, server and client processes of their own. Throughput of the row ÷ "
        "of the column: ratio of minima (of medians) of 15 interleaved rounds.\n\n"
        + table(("served", "÷ bare loop", "÷ bare loop that decodes in two threads"), rows)
    )


def _batches() -> list[list[bytes]]:
    files = [path for path in sorted(GALLERY.rglob("*")) if path.suffix in (".png", ".jpg", ".webp")]
    data = [path.read_bytes() for path in itertools.islice(itertools.cycle(files), NUM_PICTURES)]
    return [data[start : start + BATCH] for start in range(0, NUM_PICTURES, BATCH)]


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return to_pixels(decode_image(data), 224)


def _forward(model: ContrastiveModel, pixels: list[NDArray[np.uint8]]) -> object:
    with torch.inference_mode():
        return model.embed_images(torch.from_numpy(np.stack(pixels))).numpy()


@contextmanager
def _served(batches: list[list[bytes]]) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Two functions that send every batch to a real server and wait for the answers."""
    numbers = itertools.count()
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder)) as server,
        asyncio.Runner() as runner,
    ):
        yield (
            lambda: runner.run(_embed(server.address, batches)),
            lambda: runner.run(_ingest(server.address, batches, f"round-{next(numbers)}")),
        )


async def _embed(address: str, batches: list[list[bytes]]) -> None:
    room = asyncio.Semaphore(CALLS_IN_FLIGHT)

    async def send(client: AsyncClient, batch: list[bytes]) -> None:
        async with room:
            for outcome in await client.embed_images(batch):
                assert outcome.error is None, outcome.error

    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        for batch in batches:
            group.create_task(send(client, batch))


async def _ingest(address: str, batches: list[list[bytes]], collection: str) -> None:
    items = [
        IngestItem(id=f"{number}", image=data)
        for number, data in enumerate(itertools.chain.from_iterable(batches))
    ]
    async with AsyncClient(address) as client:
        async for outcome in client.ingest(collection, items):
            assert outcome.error is None, outcome.error
        await client.delete_collection(collection)
