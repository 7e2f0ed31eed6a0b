"""The reranker's own cache of image tokens: memory, least recently used goes first; behind it segments on the disk.

Keyed by the picture's bytes and the vision tower, so nothing in it can be out of date. It has a budget for each of the
two places; whatever goes wrong with the disk costs time, never an answer.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mplug_services.stored_tokens import StoredTokens, TokenStorage, encode
from mplug_services.token_segments import SegmentsBusyError, TokenKey, TokenSegments

__all__ = ["TokenCache", "TokenKey", "TokenStorage"]

logger = logging.getLogger(__name__)

FOLDER = "image-tokens"
"""Name of the segments' folder in the data directory."""


class TokenCache:
    """Image tokens by picture and tower. Blocks; any number of threads may use it.

    Args:
        storage: in which form tokens are kept; `NONE` keeps nothing.
        memory_bytes: most that the tokens in memory may take.
        folder: where segments are; None: memory only.
        disk_bytes: most that the segments may take; 0: memory only.
    """

    def __init__(
        self, storage: TokenStorage, *, memory_bytes: int, folder: Path | None = None, disk_bytes: int = 0
    ) -> None:
        self.storage = storage
        self._memory_bytes = memory_bytes
        self._memory: OrderedDict[TokenKey, StoredTokens] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()
        wanted = storage is not TokenStorage.NONE and folder is not None and disk_bytes > 0
        self._segments = _open_segments(folder, storage, disk_bytes) if wanted and folder else None

    @property
    def memory_used(self) -> int:
        """Bytes of the tokens in memory."""
        with self._lock:
            return self._used

    @property
    def disk_used(self) -> int:
        """Bytes of the segments."""
        with self._lock:
            return 0 if self._segments is None else self._segments.nbytes

    @property
    def damaged(self) -> int:
        """Records on the disk that were found torn or changed, and not served."""
        with self._lock:
            return 0 if self._segments is None else self._segments.damaged

    def get(self, key: TokenKey) -> NDArray[np.float16] | None:
        """Tokens of a picture, float16 (N, D), not to be written to; None where they are not kept."""
        with self._lock:
            stored = self._memory.get(key)
            if stored is not None:
                self._memory.move_to_end(key)
            elif self._segments is not None:
                stored = self._from_disk(self._segments, key)
        return None if stored is None else stored.decode()

    def store(self, key: TokenKey, tokens: NDArray[np.float32]) -> NDArray[np.float32] | NDArray[np.float16]:
        """Keep tokens, float32 (N, D).

        Returns:
            What `get` gives of them, so that a score does not depend on whether its tokens were at hand; the argument
            itself where they are not kept.
        """
        stored = encode(tokens, self.storage)
        if stored is None:
            return tokens
        with self._lock:
            self._remember(key, stored)
            if self._segments is not None:
                self._to_disk(self._segments, key, stored)
        return stored.decode()

    def close(self) -> None:
        """Close the segments; nothing is kept after this."""
        with self._lock:
            segments, self._segments = self._segments, None
            self._memory.clear()
            self._used = 0
        if segments is not None:
            segments.close()

    def _remember(self, key: TokenKey, stored: StoredTokens) -> None:
        if key in self._memory:
            self._used -= self._memory.pop(key).nbytes
        if stored.nbytes > self._memory_bytes:
            return
        self._memory[key] = stored
        self._used += stored.nbytes
        while self._used > self._memory_bytes:
            _, oldest = self._memory.popitem(last=False)
            self._used -= oldest.nbytes

    def _from_disk(self, segments: TokenSegments, key: TokenKey) -> StoredTokens | None:
        try:
            stored = segments.get(key)
        except (OSError, ValueError) as error:  # ValueError: mmap's word for a file that cannot be mapped
            logger.warning("stored image tokens could not be read: %s", error)
            return None
        if stored is not None:
            self._remember(key, stored)
        return stored

    def _to_disk(self, segments: TokenSegments, key: TokenKey, stored: StoredTokens) -> None:
        try:
            segments.put(key, stored)
        except OSError as error:
            logger.warning("image tokens could not be stored: %s", error)


def _open_segments(folder: Path, storage: TokenStorage, max_bytes: int) -> TokenSegments | None:
    try:
        return TokenSegments(folder, storage, max_bytes)
    except SegmentsBusyError:
        logger.warning("another process keeps image tokens in %s; this one keeps them in memory only", folder)
    except OSError as error:
        logger.warning("image tokens are kept in memory only: %s", error)
    return None
