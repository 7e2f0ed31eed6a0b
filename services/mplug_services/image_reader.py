"""Where the bytes of a picture come from: the request itself, or the configured image root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mplug_index.pictures import PictureRoot
from mplug_services.blocking import BlockingPool
from mplug_services.errors import failed_precondition


@dataclass(frozen=True, slots=True)
class ImageUri:
    """A path relative to the image root."""

    path: str


ImageSource: TypeAlias = bytes | ImageUri


class ImageReader:
    """Reads pictures.

    Args:
        root: the image root, or None where none is configured.
        pool: where files are read.
        max_bytes: largest file.
    """

    def __init__(self, root: PictureRoot | None, pool: BlockingPool, max_bytes: int) -> None:
        self._root = root
        self._pool = pool
        self._max_bytes = max_bytes

    async def read(self, source: ImageSource) -> bytes:
        """The file's bytes; checks of what they are come with decoding.

        Raises:
            ServiceError: a URI, and no image root is configured.
            IndexStoreError: the URI leads nowhere, out of the root, or to too large a file.
        """
        if isinstance(source, bytes):
            return source
        if self._root is None:
            raise failed_precondition(
                "NO_IMAGE_ROOT",
                "this server reads no pictures by uri; start it with an image root, or send data",
            )
        return await self._pool.run(self._root.read, source.path, self._max_bytes)

    async def read_each(self, sources: list[ImageSource]) -> list[bytes | Exception]:
        """Several pictures, each with its own outcome."""
        outcomes: list[bytes | Exception] = []
        # One after the other: files on a disk gain little from more, and the pool stays free for searches.
        for source in sources:
            try:
                outcomes.append(await self.read(source))
            except Exception as error:
                outcomes.append(error)
        return outcomes
