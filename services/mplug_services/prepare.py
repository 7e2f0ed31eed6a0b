"""Bytes to pixels and texts to ids, in a pool of threads before the queue.

Threads serve: PIL and the tokenizers library release the GIL for the heavy part of their work, and nothing has
to be copied between processes.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mplug.images import ImageLimits, decode_image
from mplug.overlay import draw_overlays
from mplug.preprocess import to_pixels
from mplug.text.tokenizer import Tokenizer, Tokens

THUMBNAIL_SIDE = 512
"""Longer side of a kept thumbnail, in pixels (SearchService's KEEP_IMAGES_THUMBNAIL)."""
THUMBNAIL_QUALITY = 85
"""JPEG quality: about 40 KB at 512 px, without visible blocks."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """A picture as the model takes it."""

    pixels: NDArray[np.uint8]
    """uint8 (3, R, R)."""
    thumbnail: bytes | None = None
    """A JPEG of at most 512 px, where one was asked for."""


class Preparer:
    """The pool. Callers have reserved room in the engine's queue first, which bounds what waits here.

    Args:
        limits: what is refused before decoding.
        num_workers: threads.
    """

    def __init__(self, limits: ImageLimits, num_workers: int) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="prepare")

    async def images(
        self, images: Sequence[bytes], side: int, *, thumbnails: bool = False
    ) -> list[PreparedImage | Exception]:
        """Decode pictures and squash them to squares; each has its own outcome (`ImageError` if bad)."""
        return await self._each(lambda data: prepare_image(data, side, self._limits, thumbnails), images)

    async def texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Tokens | Exception]:
        """Tokenize texts; each has its own outcome."""
        return await self.read(texts, tokenizer.encode)

    async def read(self, texts: Sequence[str], read: Callable[[str], R]) -> list[R | Exception]:
        """Tokenize texts by a model's own reading; each has its own outcome."""
        return await self._each(read, texts)

    async def overlays(self, image: bytes, maps: Sequence[NDArray[np.float32]]) -> list[bytes]:
        """Draw maps over a picture; arguments and errors as in `mplug.overlay.draw_overlays`."""
        (drawn,) = await self._each(lambda data: draw_overlays(data, maps, self._limits), [image])
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _each(self, function: Callable[[T], R], values: Sequence[T]) -> list[R | Exception]:
        loop = asyncio.get_running_loop()
        # Cancelling the gathering cancels what has not begun.
        jobs = [loop.run_in_executor(self._pool, _outcome, function, value) for value in values]
        return await asyncio.gather(*jobs)


def prepare_image(data: bytes, side: int, limits: ImageLimits, thumbnail: bool) -> PreparedImage:
    """Decode one picture; `ImageError` where it is not an acceptable one."""
    image = decode_image(data, limits)
    return PreparedImage(to_pixels(image, side), make_thumbnail(image) if thumbnail else None)


def make_thumbnail(image: Image.Image) -> bytes:
    """A JPEG of an RGB picture whose longer side is at most `THUMBNAIL_SIDE` pixels."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
    return stream.getvalue()


def _outcome(function: Callable[[T], R], value: T) -> R | Exception:
    # Caught here and not by gather, which would take a cancellation for an outcome, too.
    try:
        return function(value)
    except Exception as error:
        return error
