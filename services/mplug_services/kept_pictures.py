"""Where the picture behind a point, or one that a request brings, is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from mplug_index.pictures import PictureStore
from mplug_index.types import Payload
from mplug_services.blocking import BlockingPool
from mplug_services.errors import failed_precondition
from mplug_services.image_reader import ImageReader, ImageSource, ImageUri
from mplug_services.ingest import SHA256_KEY, URI_KEY


@dataclass(frozen=True, slots=True)
class KeptImage:
    """A picture of the PictureStore, by the SHA-256 of its bytes."""

    sha256: str


PictureSource: TypeAlias = ImageSource | KeptImage


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was read."""

    data: bytes
    sha256: str
    """Of its bytes, in hex."""


class KeptPictures:
    """Reads pictures, wherever they are.

    Args:
        pictures: kept originals and thumbnails; None where this server has no data.
        reader: reads pictures that are named by uri.
        pool: where files are read.
    """

    def __init__(self, pictures: PictureStore | None, reader: ImageReader, pool: BlockingPool) -> None:
        self._pictures = pictures
        self._reader = reader
        self._pool = pool

    async def read(self, source: PictureSource) -> Picture:
        """Read a picture.

        Raises:
            ServiceError, IndexStoreError: it is not there, or may not be read.
        """
        if isinstance(source, KeptImage):
            assert self._pictures is not None, "a kept picture's name comes from this server's data"
            return Picture(await self._pool.run_patiently(self._pictures.get, source.sha256), source.sha256)
        data = await self._reader.read(source)
        return Picture(data, await self._pool.run_patiently(_sha256, data))


def source_of(payload: Payload, id: str) -> PictureSource:
    """Where the picture of a point is.

    Raises:
        ServiceError: it is not kept.
    """
    sha256, uri = payload.get(SHA256_KEY), payload.get(URI_KEY)
    if isinstance(sha256, str):
        return KeptImage(sha256)
    if isinstance(uri, str):
        return ImageUri(uri)
    raise failed_precondition(
        "NO_PICTURE_KEPT",
        f"the picture of {id!r} is not kept; ingest it with keep_images original or thumbnail, or by uri",
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
